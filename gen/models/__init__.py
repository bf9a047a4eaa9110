"""Networks: the shared transformer, its conditions and its heads."""

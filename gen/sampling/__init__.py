"""What `gen.sample` does with its command: the job, its flags, and ways to go about it."""

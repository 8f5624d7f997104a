"""A vault in the kernel's namespace: adapters, commits, and the life of the process that serves them."""

"""Namespace and file content as objects of a chain: plain synchronous calls, no kernel, no FUSE types."""

"""The kernel adapter that speaks /dev/fuse itself: protocol, connection, loop and handlers."""

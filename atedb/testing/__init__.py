"""Stand-ins for the world, for tests of this program and of what is built on it: disk, network, threads and chance."""

"""Servers of other people that storages are tested on, as private instances."""

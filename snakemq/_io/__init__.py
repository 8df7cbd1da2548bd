"""The only place that touches the operating system's sockets, threads and clocks."""

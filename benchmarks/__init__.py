"""How fast the package is, side by side with others in the same minutes.

``python3 -m benchmarks`` from the project's root; ``--help`` says the rest.

* :mod:`benchmarks.peers`: who is measured. Each is one small module with the
  same few functions; :mod:`benchmarks.peers.catalogue` names them all.
* :mod:`benchmarks.servers`: what some of them need to run.
* :mod:`benchmarks.workloads`: what they have to do.
* :mod:`benchmarks.endpoint`: one side of one run, a process of its own.
* :mod:`benchmarks.runner`: all runs, interleaved round by round.
* :mod:`benchmarks.results`: what is written as JSON: medians and ratios of it.
* :mod:`benchmarks.reach`: what is asked of the package, and whether that holds.
* :mod:`benchmarks.report`: the table.
* :mod:`benchmarks.plots`, :mod:`benchmarks.page`: pictures, and the page of the
  documentation.
"""

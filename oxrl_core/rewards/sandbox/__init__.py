"""Where text written by a model runs: a fork server, one locked-down child per execution, and messages of plain data.

pool.py     the judge's side: starts the fork server, runs one execution under a deadline
zygote.py   the fork server: a plain interpreter that never holds a secret
child.py    what a child does with a job
locks.py    Landlock, seccomp, namespaces and limits, by ctypes
wire.py     values as messages
fast.py     the tier before it, where Monty is installed: an interpreter that offers a program nothing but Python
fast_server.py  the process that the interpreter lives in
level.py    how strong the protection is here, and who may go without it
"""

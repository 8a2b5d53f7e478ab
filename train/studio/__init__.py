"""`govor studio`: one local page for runs, rows, chat and new trainings; and `govor runs`, its list in the terminal.

It keeps nothing of its own: what it shows is read from the run folders and files of rows, and what it changes is
changed by govor's other commands. Nothing here loads torch; what needs it runs in a process of its own.
"""

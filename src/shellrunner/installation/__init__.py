"""Install the service under systemd, for the system or for one user, and remove it again.

Used by the command line. A plan is a list of steps, of which only those that are not done yet are applied, so that a
second installation changes nothing. Must not know jobs, HTTP or SQL.
"""

"""The doors: one thin entry point a job, and the `mart` command. Parse, call, report."""

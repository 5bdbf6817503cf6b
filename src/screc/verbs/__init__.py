"""Verbs of the command line that stand in files of their own, and what all verbs share."""

"""The tasks of CenterNet, one a folder."""

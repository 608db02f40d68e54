"""Checks of kvconn against the real LMCache."""

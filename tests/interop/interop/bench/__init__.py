"""Measures LMCache's clients and kvconn's in turn."""

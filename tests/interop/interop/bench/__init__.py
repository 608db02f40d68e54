"""LMCache's clients and kvconn's in turn, side by side."""

"""kvconn beside the real LMCache."""

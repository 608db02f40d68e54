"""The stores of acme-kv, for kvconn: ``kvconn.connect("acme://localhost:0")``."""

import kvconn

from acme import _native

__all__ = ["library"]

#: ``library.connect(..)`` opens stores of this package only.
library = kvconn.carry(_native)

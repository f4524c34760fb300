"""x"""

from typing import Any

GUARDS: dict[str, Any] = {}

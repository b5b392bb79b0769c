"""Over the air: what a repository says to a device, and the client that listens.

``names``, ``forget_list`` and ``channel`` are what both sides of a repository share; nothing in
them needs ``tuf``, so that a forget list can be applied where the extra ``ota`` is not installed.
"""

__all__: list[str] = []

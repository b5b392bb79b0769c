"""The forget lists of one update: that of the metadata, the plain one, one that came alone.

Owns what they came to together. A list's own signatures are enough, so where anything is wrong with
the metadata, or with what it says, the plain list at its fixed name is obeyed, too; a poll that
finds all in order does not ask for it::

    lists = ForgetLists(directory, str(source), require_state=True)
    listed = lists.obey(device, text, keys)
    lists.obey_plain(device, transport, keys)   # no error: the first way's is the one to tell
    lists.obeyed
"""

from contextlib import suppress
from pathlib import Path

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import ForgetListError, PfmEdgeError
from pfm_edge_runtime.ota._obeying import Obeyed, obey
from pfm_edge_runtime.ota._transport import Transport
from pfm_edge_runtime.ota.forget_list import MAX_FORGET_LIST_BYTES, ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE
from pfm_edge_runtime.state import DeviceState

__all__ = ["ForgetLists"]


class ForgetLists:
    """The lists that one update obeys.

    Args:
        directory: The package.
        source: Where the update comes from, as messages name it.
        require_state: As for ``opening.open_model``.

    Attributes:
        obeyed: What became of them; ``None`` if there was none yet.
    """

    def __init__(self, directory: Path, source: str, *, require_state: bool) -> None:
        self.obeyed: Obeyed | None = None
        self._directory = directory
        self._source = source
        self._require_state = require_state
        self._lists: list[ForgetList] = []
        self._asked = False

    def obey(self, device: DeviceState, text: bytes, keys: TrustedKeys | None) -> ForgetList:
        """Obey a list; one that was obeyed before costs nothing.

        Args:
            device: The device's memory.
            text: The file.
            keys: Who signs forget lists, as far as the device knows.

        Raises:
            ForgetListError: It is none, or not the issuer's.
            StorageError: The disk refused, and no class of the list was forgotten by this call.
            StateError: The device's memory is damaged, or gone.
        """
        if keys is None:
            raise ForgetListError("this device does not know who signs forget lists")
        try:
            listed = ForgetList.parse(text, keys)
        except ForgetListError as error:
            raise ForgetListError(f"{self._source}: {FORGET_FILE}: {error}") from error
        if all(each.digest != listed.digest for each in self._lists):
            done = obey(self._directory, device, listed, require_state=self._require_state)
            self.obeyed = done if self.obeyed is None else self.obeyed.and_then(done)
            self._lists.append(listed)
        return listed

    def obey_plain(
        self, device: DeviceState, transport: Transport, keys: TrustedKeys | None
    ) -> None:
        """Obey the list at its fixed name, if it can be had; it is asked for once."""
        if self._asked:
            return
        self._asked = True
        with suppress(PfmEdgeError):
            text = transport.read(FORGET_FILE, most=MAX_FORGET_LIST_BYTES, attempts=1)
            self.obey(device, text, keys)

    def obey_again(self, device: DeviceState) -> None:
        """Obey them once more: there is a bundle now, to state of what was not to be seen."""
        for each in self._lists:
            obey(self._directory, device, each)

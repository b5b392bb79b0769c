"""Every exception that the pfm-edge packages raise on purpose.

One root, one tree; a third party's exception never crosses a package's boundary. Each message is
one line that names the thing at fault and the fix::

    PfmEdgeError
    ├── BackendError               this machine cannot run the graph
    │   └── BackendUnavailableError    the library is not installed
    ├── BundleError                a bundle is at fault
    │   ├── BundleFormatError          its bytes break the format
    │   └── VerificationError          well formed, but not what it claims to be
    ├── ConfigError                what the user asked for makes no sense
    ├── DoctorError                the doctor found something to mend
    ├── EnvelopeError              a signed text breaks its format
    │   └── SignatureError             a signature on it does not verify
    ├── ErasurePendingError        a class is forgotten and refused, its bytes are not gone yet
    ├── ImageError                 an image cannot be read, or has the wrong form
    ├── KeyFileError               a key cannot be read, or is not of the kind that is needed
    ├── NoClassLeftError           every class was forgotten
    ├── PackageError               a model package is missing, incomplete or altered
    │   ├── ManifestError              its manifest.json breaks the format
    │   └── VariantError               none of its graphs is what was asked for, or large enough
    ├── StateError                 the device's memory is damaged, or that of another device
    │   ├── StateMissingError          there is none
    │   └── StateUnreadableError       it is there, and this process cannot read it just now
    ├── StorageError               the disk refused; what was there before is intact
    ├── UnknownClassError          no class of that id or label
    └── UpdateError                an update over the air is at fault, or what it came from
        ├── ChannelError               a channel file breaks its format
        ├── FetchError                 a server cannot be reached, or does not answer as it must
        ├── ForgetListError            a forget list breaks its format, or is not the issuer's
        ├── RepositoryError            the repository's metadata cannot be trusted
        ├── UnhealthyError             a bundle is sound, and would not work on this device
        └── UpdateBusyError            another update of this device is under way

The toolchain adds DataError, RegistryError, RunError and WeightsError (pfm_edge.errors), the
exporters ExportError and ParityError (pfm_edge_exporters.errors), under the same root.
"""

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BundleError",
    "BundleFormatError",
    "ChannelError",
    "ConfigError",
    "DoctorError",
    "EnvelopeError",
    "ErasurePendingError",
    "FetchError",
    "ForgetListError",
    "ImageError",
    "KeyFileError",
    "ManifestError",
    "NoClassLeftError",
    "PackageError",
    "PfmEdgeError",
    "RepositoryError",
    "SignatureError",
    "StateError",
    "StateMissingError",
    "StateUnreadableError",
    "StorageError",
    "UnhealthyError",
    "UnknownClassError",
    "UpdateBusyError",
    "UpdateError",
    "VariantError",
    "VerificationError",
]


class PfmEdgeError(Exception):
    """Root of every exception that pfm-edge raises on purpose.

    Attributes:
        may_pass: Whether a later try may succeed by itself: what ends with 75, EX_TEMPFAIL.
    """

    may_pass: bool = False


class BackendError(PfmEdgeError):
    """This machine cannot run the graph."""


class BackendUnavailableError(BackendError):
    """The library behind a backend is not installed."""


class BundleError(PfmEdgeError):
    """A bundle is at fault.

    Attributes:
        step: The step of the verification that found it, 1 to 11 as in docs/bundle-format.md;
            ``None`` where no verification was under way.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class BundleFormatError(BundleError):
    """The bytes of a bundle break the format."""


class VerificationError(BundleError):
    """A bundle is well formed, but it is not what it claims to be, or not for this model."""


class ConfigError(PfmEdgeError):
    """What the user asked for makes no sense."""


class DoctorError(PfmEdgeError):
    """The doctor found something to mend."""


class EnvelopeError(PfmEdgeError):
    """A signed text (DSSE) breaks its format."""


class ErasurePendingError(PfmEdgeError):
    """A class is forgotten and refused, but its bytes are not gone from the disk yet."""


class SignatureError(EnvelopeError):
    """A signature does not verify."""


class ImageError(PfmEdgeError):
    """An image cannot be read, or has the wrong form."""


class KeyFileError(PfmEdgeError):
    """A key cannot be read, or it is not of the kind that is needed."""


class NoClassLeftError(PfmEdgeError):
    """Every class was forgotten: there is nothing to predict."""


class PackageError(PfmEdgeError):
    """A model package is missing, incomplete or altered."""


class ManifestError(PackageError):
    """A manifest.json breaks the format."""


class VariantError(PackageError):
    """No graph of a package is what was asked for, or takes as many classes as there are."""


class StateError(PfmEdgeError):
    """The device's memory is damaged, or it is that of another device."""


class StateMissingError(StateError):
    """The device has no memory yet."""


class StateUnreadableError(StateError):
    """The device's memory is there, and this process cannot read it just now."""


class StorageError(PfmEdgeError):
    """The disk refused a write; what was there before is intact."""


class UnknownClassError(PfmEdgeError):
    """No class of that id or label is known."""


class UpdateError(PfmEdgeError):
    """An update over the air is at fault, or what it came from."""


class ChannelError(UpdateError):
    """A channel file breaks its format."""


class FetchError(UpdateError):
    """A server cannot be reached, or does not answer as it must; a later try may succeed."""

    may_pass = True


class ForgetListError(UpdateError):
    """A forget list breaks its format, or is not the issuer's."""


class RepositoryError(UpdateError):
    """The repository's metadata cannot be trusted: a signature, a version or an expiry is wrong."""


class UnhealthyError(UpdateError):
    """A bundle is what it claims to be, and would not work on this device.

    Where a graph could not be loaded or run at all, what was wrong may pass: memory was short, an
    accelerator was busy.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class UpdateBusyError(UpdateError):
    """Another update of this device is under way."""

    may_pass = True

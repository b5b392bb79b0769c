"""The demo's parts: a device in another process, what it saw before and after, one picture.

device = DeviceProcess(package)
before = device.predict(images)
device.forget(class_id)
after = device.predict(images)
"""

from pfm_edge.demo._comparison import Comparison, compare
from pfm_edge.demo._device import DeviceProcess, ForgetOutcome, Predictions
from pfm_edge.demo._picture import draw

__all__ = ["Comparison", "DeviceProcess", "ForgetOutcome", "Predictions", "compare", "draw"]

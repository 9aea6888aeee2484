"""What a run runs on and with, in the words of its engine: for those who see it from elsewhere."""

from recap_fast.captioner.captioner import Captioner
from recap_fast.launch.plan import Plan
from recap_fast.launch.work_log import Device
from recap_fast.machine import find_commit
from recap_fast.version import __version__


def find_device(captioner: Captioner) -> Device:
    """What the open engine runs on."""
    from recap_fast.generate.device import device_name, resolve_device  # torch, which is loaded by now

    device = resolve_device(captioner.config.options.device)
    return Device(device_name(device), device.type != "cpu")


def find_provenance(captioner: Captioner) -> dict[str, str | None]:
    """What the open engine runs on and of which commit the code is, as the files of captions name them."""
    return {"machine": find_device(captioner).name, "commit": find_commit()}


def build_info(plan: Plan) -> dict[str, str]:
    """The labels of `recap_fast_build_info`."""
    spec, (index, num) = plan.captioner.prepared.spec, plan.part
    return {
        "version": __version__,
        "engine": spec.name,
        "backend": spec.backend,
        "precision": spec.precision,
        "decoder": plan.captioner.decoder.name,
        "part": f"{index + 1}/{num}",
    }

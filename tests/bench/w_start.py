"""W7: what starting a step costs."""

from contestants import Hm, Native, Step, ms
from measure import HM, NATIVE, Group, Row, above_native
from w_files import new_case


def start_group(place, sizes):
    case, image = new_case(place, "start"), place.image()
    hm, native = Hm(place, case, image), Native(place, case, image)
    count = sizes.start_steps
    # `: N` makes each another command; an equal one in flight would be waited for and adopted.
    chain = [Step(f": {i}; true", f"s{i}", f"s{i - 1}" if i else None, "none")
             for i in range(count)]
    apart = [Step(f": {i}; true", f"s{i}", None, "none") for i in range(count)]

    def per_step(steps):
        return ms(hm.run(steps, "--no-cache", "--parallelism", "1").wall_ns) / count

    def with_native():
        each = ms(sum(native.run("true", count)["runs"])) / count
        return {"W7": each, "W7-apart": each}

    bars = (above_native(10, "ms"),)
    return Group([
        Row("W7", f"{count} steps of `true`, each from the one before: whole process, per step",
            bars=bars),
        Row("W7-apart", f"{count} steps of `true`, each by itself, one at a time: whole process, "
            "per step", bars=bars),
    ], {HM: lambda: {"W7": per_step(chain), "W7-apart": per_step(apart)}, NATIVE: with_native},
        clean=hm.drop_home)


def requests_of_empty_step(place):
    """What of the requests counted elsewhere is the shell's and the sandbox's."""
    hm = Hm(place, new_case(place, "empty"), place.image())
    place.counting = True
    hm.step("true")
    place.counting = False
    hm.drop_home()
    return place.take_requests()


def groups(place, sizes, _options):
    return {"W7": [lambda: start_group(place, sizes)]}

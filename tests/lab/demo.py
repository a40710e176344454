"""``make demo``: from the hooks of a new cluster to a program that runs in a Slurm job on every compute node."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import stack
from tests.lab.cluster import NODES, Action, Lab, Result
from tests.lab.engine import LabError, print_progress, until

DIST = Path(__file__).parents[2] / "dist"
SCRIPTS = {
    "OnNodeStart": "on_node_start.sh",
    "OnNodeConfigured": "on_node_configured.sh",
    "OnNodeUpdated": "on_node_updated.sh",
}
PROOF_SECONDS = 120.0


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"   {line}", flush=True)


def publish(lab: Lab, config: dict[str, object]) -> None:
    """Put package, hook scripts and configuration into S3, and add them to the cluster's configuration."""
    lab.set_custom_actions(actions(lab, config, (DIST / "petal-node").read_bytes()))


def actions(lab: Lab, config: dict[str, object], package: bytes, name: str = "petal.yaml") -> dict[str, Action]:
    """Return the custom actions for a package and a configuration, after uploading their objects to S3."""
    bucket = stack.Bucket(lab)
    digest = hashlib.sha256(package).hexdigest()
    uri = bucket.put(f"petal-node/{digest[:12]}/petal-node", package).uri
    config_uri = bucket.put(f"petal-node/{name}", json.dumps(config, indent=1).encode()).uri
    args = ("--package", uri, "--sha256", digest, "--config", config_uri)
    made = {
        event: Action(bucket.put(f"petal-node/{script}", (DIST / script).read_bytes()).uri, args)
        for event, script in SCRIPTS.items()
    }
    bucket.send()
    return made


def boot(lab: Lab, nodes: Sequence[str]) -> None:
    """Boot nodes at the same time, and show the output of their hooks."""
    with ThreadPoolExecutor() as pool:
        booted = list(zip(nodes, pool.map(lab.boot, nodes)))
    for node, results in booted:
        show_boot(lab, node, results)


def show_boot(lab: Lab, node: str, results: Sequence[Result]) -> None:
    """Show one node's boot: the output of its hooks, and how long they took."""
    for result, phase in zip(results, ("init", "start", "config", "configured", "finalize")):
        if phase in ("start", "configured"):
            took = f"{result.hook_seconds:.1f} s" if result.hook_seconds is not None else "?"
            heading(f"{lab.container(node)}: hook {phase}, {took}")
            show(result.stdout)
        result.check()


def wait_for_proof(lab: Lab) -> None:
    """Wait until the head node has recorded a proof, or until its install has ended without a proof."""

    def ended() -> bool:
        answer = lab.exec("head", ("petal-node", "status", "--json"))
        data = json.loads(answer.stdout)["data"]
        installed = bool(data["install"]) and data["install"]["finished"] is not None
        return installed and (bool(data["proof"]) or data["runs"][0]["finished"] is not None)

    until("the worker's proof", ended, PROOF_SECONDS)


def again(lab: Lab) -> None:
    """Run every hook a second time: nothing may change."""
    for node in NODES:
        for event in ("start", "configured"):
            result = lab.phase(node, event).check()
            last = result.stdout.rstrip().splitlines()[-1]
            show(f"{lab.container(node):<22} {event:<11} {result.hook_seconds or 0:.2f} s   {last}")
            if "changed (" in last.replace("0 changed", ""):
                raise LabError(f"{node}: the second run of {event} changed something:\n{result.stdout}")


def demo(lab: Lab) -> None:
    """Run the whole demo on a new lab that is left running."""
    started = time.monotonic()
    if not (DIST / "petal-node").is_file():
        raise LabError("dist/petal-node is not there: make dist")
    lab.ensure_engine()
    lab.build_images()
    heading("a new cluster: S3, head, login and two compute nodes")
    lab.fresh()
    reason = stack.no_spack()
    if reason:
        print_progress(f"the demo shows binary packages only, because {reason}")
    config = stack.lab_config(lab, spack=reason is None)
    publish(lab, config)
    boot(lab, ["head"])
    boot(lab, NODES[1:])
    lab.wait_idle()
    heading("the worker on the head node, when the compute nodes have joined")
    wait_for_proof(lab)
    show(lab.exec("head", ("petal-node", "status")).stdout)
    heading("petal-node check --nodes all")
    show(lab.exec("head", ("petal-node", "check", "--nodes", "all")).check().stdout)
    heading("a user's job on each compute node: srun -N2 bash -lc 'module load ...; hello; ...'")
    show(job(lab, config).check().stdout)
    heading("every hook once more: nothing changes")
    again(lab)
    heading(f"done in {time.monotonic() - started:.0f} s; the cluster is left running")
    show(f"docker exec -it {lab.container('head')} bash -l        make lab-down LAB={lab.name} removes it")


def job(lab: Lab, config: dict[str, object]) -> Result:
    """Run a user's commands: load the modules, run the programs."""
    check = config["check"]
    assert isinstance(check, dict)
    script = " && ".join([f"module load {' '.join(check['load'])}", *check["run"], "module -t list 2>&1"])
    return lab.srun("-N2", "--label", "bash", "-lc", script)

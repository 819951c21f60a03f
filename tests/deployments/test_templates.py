"""Work pools of Docker and Kubernetes: their templates, as far as they can be tried without either."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

TEMPLATES = Path(__file__).parents[2] / "deployments" / "templates"
KINDS = sorted(path.stem for path in TEMPLATES.glob("*.json"))


def template(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((TEMPLATES / f"{kind}.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_uses_all_its_variables_and_no_others(kind: str) -> None:
    content = template(kind)
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(content["job_configuration"])))
    assert used == set(content["variables"]["properties"])
    assert all("title" in variable for variable in content["variables"]["properties"].values())


@pytest.mark.flow
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_takes_a_template(kind: str, prefect_server: Any) -> None:
    content = template(kind)
    made = prefect_server.post(
        "/work_pools/", {"name": f"test-{kind}", "type": kind, "base_job_template": content}
    )
    assert made["base_job_template"] == content


def configuration(url: str, library: str, name: str, kind: str) -> Any:
    """What a worker of this kind would start for a flow run of one of our deployments."""
    worker = pytest.importorskip(f"{library}.worker", reason=f"{library} is not installed")
    given = {"env": {"TEMPER_DEVICE": "cuda"}, "command": "prefect flow-run execute"}
    with temporary_settings({PREFECT_API_URL: url}):
        return asyncio.run(getattr(worker, name).from_template_and_values(template(kind), given))


@pytest.mark.flow
def test_the_docker_worker_understands_its_template(prefect_server: Any) -> None:
    made = configuration(prefect_server.url, "prefect_docker", "DockerWorkerJobConfiguration", "docker")
    assert made.env["TEMPER_DEVICE"] == "cuda"
    assert made.env["TEMPER_HOME"] == "/data"
    assert made.volumes == ["temper-data:/data"]
    assert made.container_create_kwargs["cap_drop"] == ["ALL"]


@pytest.mark.flow
def test_the_kubernetes_worker_understands_its_template(prefect_server: Any) -> None:
    name = "KubernetesWorkerJobConfiguration"
    made = configuration(prefect_server.url, "prefect_kubernetes", name, "kubernetes")
    assert made.env["TEMPER_HOME"] == "/data"
    pod = made.job_manifest["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 0}
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/data"

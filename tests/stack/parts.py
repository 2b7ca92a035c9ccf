"""The tables of everything that `up` starts, and what each part needs to be ready first."""

from functools import partial

from tests.stack import (
    access,
    airflow,
    control_plane,
    gateway,
    go_modules,
    guard,
    images,
    network,
    node,
    packages,
    postgres,
    prometheus,
)
from tests.stack.control_plane import answers
from tests.stack.graph import Part

_NODE_READY = ("wait", f"node/{access.NODE}", "--for=condition=Ready", "--timeout=1s")

CLUSTER = (
    Part("kubernetes-binary", (), go_modules.build_kubernetes),
    Part("gateway-api", (), go_modules.fetch_gateway_crds),
    Part("certificates", (), access.create),
    Part("namespaces", ("packages",), network.create, network.ready),
    # Kubernetes
    Part("etcd", ("namespaces",), control_plane.start_etcd),
    Part(
        "apiserver",
        ("etcd", "certificates", "kubernetes-binary"),
        control_plane.start_apiserver,
        partial(answers, "get", "--raw=/readyz"),
    ),
    Part(
        "controller-manager",
        ("apiserver",),
        control_plane.start_controller_manager,
        partial(answers, "get", "serviceaccount", "default"),
    ),
    Part("kube-scheduler", ("apiserver",), control_plane.start_scheduler),
    Part("containerd", ("namespaces",), node.start_containerd, node.containerd_ready),
    Part("sandbox-image", ("containerd", "kubernetes-binary"), node.import_sandbox_image),
    Part("kubelet", ("apiserver", "sandbox-image"), node.start_kubelet, partial(answers, *_NODE_READY)),
    Part("kube-proxy", ("apiserver",), node.start_kube_proxy),
    # Traffic and metrics
    Part("gateway-crds", ("apiserver", "gateway-api"), gateway.install_crds),
    Part("traefik", ("gateway-crds",), gateway.start_traefik, gateway.traefik_ready),
    Part("prometheus", ("namespaces", "certificates"), prometheus.start, prometheus.ready),
    Part("prometheus-access", ("apiserver",), prometheus.grant_access),
    # The guard: it does not depend on Airflow
    Part("guard-access", ("controller-manager",), guard.give_access),
    Part("guard", ("guard-access",), guard.start),
    # Images
    Part("registry", ("namespaces",), images.start_registry, images.registry_ready),
    Part("dockerd", ("containerd",), images.start_dockerd, images.dockerd_ready),
)
"""The cluster with its gateway, Prometheus, registry and Docker: none of it is started if the user has a cluster."""

AIRFLOW = (
    Part("packages", (), packages.install),
    Part("airflow-home", (), airflow.prepare),
    Part("airflow-access", ("controller-manager", "airflow-home"), airflow.give_access),
    Part("postgres", ("packages", "namespaces"), postgres.start, postgres.ready),
    # Airflow is never idle: it would take half a core from the compiler for as long as Kubernetes is being compiled.
    Part("airflow-database", ("postgres", "airflow-home", "kubernetes-binary"), airflow.migrate),
    Part("airflow-api-server", ("airflow-database",), partial(airflow.start, "api-server"), airflow.api_ready),
    Part(
        "airflow-scheduler",
        ("airflow-database",),
        partial(airflow.start, "scheduler", airflow.LOGS_ARE_LOCAL),
        partial(airflow.running, "SchedulerJob"),
    ),
    Part(
        "airflow-dag-processor",
        ("airflow-database",),
        partial(airflow.start, "dag-processor"),
        partial(airflow.running, "DagProcessorJob"),
    ),
    *(
        Part(
            f"airflow-triggerer-{number}",
            ("airflow-database",),
            partial(airflow.start, "triggerer", airflow.LOGS_ARE_LOCAL, name=f"triggerer-{number}"),
            partial(airflow.running, "TriggererJob", airflow.TRIGGERERS),
        )
        for number in range(1, airflow.TRIGGERERS + 1)
    ),
)
"""Airflow and its database."""

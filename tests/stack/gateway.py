"""Traefik as the cluster's gateway, with the Gateway API's CRDs and, for mirroring, Traefik's own."""

import json
import sys
from pathlib import Path

from tests.stack import go_modules
from tests.stack.access import kubeconfig, kubectl
from tests.stack.http import get
from tests.stack.layout import ADDRESS
from tests.stack.network import inside
from tests.stack.processes import Process, spawn

PORT = 8000
METRICS_PORT = 8081
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

SETTINGS = (
    "--providers.kubernetesgateway=true",
    # 2 s by default: a brake that waits 2 s for its gateway is not one.
    "--providers.providersthrottleduration=100ms",
    "--metrics.prometheus=true",
    "--metrics.prometheus.entrypoint=metrics",
    "--metrics.prometheus.addserviceslabels=true",
    "--metrics.prometheus.addrouterslabels=true",
    f"--metrics.prometheus.buckets={','.join(str(edge) for edge in BUCKETS)}",
)
"""What deployments need of Traefik, wherever it runs."""

_TRAEFIK_KINDS = (
    "IngressRoute",
    "IngressRouteTCP",
    "IngressRouteUDP",
    "Middleware",
    "MiddlewareTCP",
    "ServersTransport",
    "ServersTransportTCP",
    "TLSOption",
    "TLSStore",
    "TraefikService",
)

MANIFESTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: gateway}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: traefik}}
spec: {{controllerName: traefik.io/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway, namespace: gateway}}
spec:
  gatewayClassName: traefik
  listeners: [{{name: web, port: {PORT}, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: traefik}}
rules:
- apiGroups: [""]
  resources: [namespaces, services, secrets, configmaps, nodes]
  verbs: [get, list, watch]
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
- {{apiGroups: [gateway.networking.k8s.io, traefik.io], resources: ["*"], verbs: [get, list, watch]}}
- {{apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [get, list, watch]}}
- apiGroups: [gateway.networking.k8s.io]
  resources:
  - gatewayclasses/status
  - gateways/status
  - httproutes/status
  - grpcroutes/status
  - tcproutes/status
  - tlsroutes/status
  - udproutes/status
  - backendtlspolicies/status
  - listenersets/status
  verbs: [update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: traefik}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: traefik}}
subjects: [{{kind: User, name: traefik}}]
"""


def install_crds() -> None:
    """Teach the API server the Gateway API and traefik.io; then the one gateway, open to every namespace's routes."""
    definitions = {"apiVersion": "v1", "kind": "List", "items": [_permissive(kind) for kind in _TRAEFIK_KINDS]}
    files = (f"--filename={go_modules.gateway_crds()}", "--filename=-")
    kubectl("apply", "--server-side", *files, stdin=json.dumps(definitions))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "customresourcedefinitions", "--all")
    kubectl("apply", "--server-side", "--filename=-", stdin=MANIFESTS)


def start_traefik() -> Process:
    """Start the gateway itself."""
    argv: list[str | Path] = [
        Path(sys.executable).with_name("traefik"),
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        "--log.level=INFO",
        f"--entrypoints.web.address=:{PORT}",
        f"--entrypoints.metrics.address=:{METRICS_PORT}",
        "--ping=true",
        "--ping.entrypoint=metrics",
        f"--providers.kubernetesgateway.statusaddress.ip={ADDRESS}",
        "--providers.kubernetescrd=true",
        # Without it, a mirror that has no endpoints yet answers 404 to every user.
        "--providers.kubernetescrd.allowemptyservices=true",
        *SETTINGS,
    ]
    return spawn("traefik", inside(argv), {"KUBECONFIG": str(kubeconfig("traefik"))})


def traefik_ready() -> bool:
    """Whether Traefik is up and has taken the Gateway on."""
    programmed = '{.status.conditions[?(@.type=="Programmed")].status}'
    return (
        get(f"http://{ADDRESS}:{METRICS_PORT}/ping") is not None
        and kubectl("get", "gateway", "gateway", "--namespace=gateway", f"--output=jsonpath={programmed}") == "True"
    )


def _permissive(kind: str) -> dict[str, object]:
    """A CRD that takes anything: Traefik itself validates what it reads."""
    singular, group = kind.lower(), "traefik.io"
    plural = f"{singular}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": singular, "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{"name": "v1alpha1", "served": True, "storage": True, "schema": schema}],
        },
    }

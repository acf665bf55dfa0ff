"""Write deploy/kubernetes/<model>.yaml from the launch lines of `backends`: one GPU per pod.

A test fails when a file is not what this makes; `make deployment` makes them again.
"""

# ruff: noqa: E501 - the lines of the files that are written here, as they stand there

import sys
from collections.abc import Iterator
from pathlib import Path

from backends.sglang import launch_command

DIRECTORY = Path(__file__).parent.parent / "deploy" / "kubernetes"
MODELS = ("llama2-70b", "gpt-oss-120b")

TEXT = """\
# Made by scripts/kubernetes_engines.py from the launch line in backends/sglang.py; `make deployment`.
# No cluster and no MI355X has run it yet. docs/mi355x.md explains the line; docs/deployment.md what a node needs.
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {model}, namespace: sluice, labels: {{app.kubernetes.io/name: {model}, sluice.dev/role: engine}}}}
spec:
  replicas: 1
  # A GPU that is in use cannot be given to a second pod: the old one drains first.
  strategy: {{type: RollingUpdate, rollingUpdate: {{maxUnavailable: 1, maxSurge: 0}}}}
  progressDeadlineSeconds: 7200
  selector: {{matchLabels: {{app.kubernetes.io/name: {model}}}}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: {model}, sluice.dev/role: engine}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      # Longer than the longest stream.
      terminationGracePeriodSeconds: 3720
      # AMD's run line for ROCm: shared IPC, ptrace, no seccomp filter (docs/mi355x.md).
      hostIPC: true
      securityContext: {{seccompProfile: {{type: Unconfined}}}}
      nodeSelector: {{sluice.dev/gpu: mi355x}}
      tolerations: [{{key: amd.com/gpu, operator: Exists, effect: NoSchedule}}]
      # A sidecar (restartPolicy: Always, Kubernetes 1.29 and later) starts before and ends after the containers
      # below: the lease is drained and given up before the engine hears of any end.
      initContainers:
        - name: engine
          restartPolicy: Always
          image: lmsysorg/sglang:v0.5.23-rocm720-mi35x
          command:
{command}
          env:
{env}
            - {{name: HF_HOME, value: /models}}
            - {{name: HF_TOKEN, valueFrom: {{secretKeyRef: {{name: huggingface, key: token, optional: true}}}}}}
          ports: [{{name: http, containerPort: 30000}}]
          # Weights are downloaded the first time, and kernels are compiled.
          startupProbe: {{httpGet: {{path: /ready, port: 30000}}, periodSeconds: 10, failureThreshold: 360}}
          # A busy engine is not a dead one: gateways judge by /ready; this restarts what has hung for minutes.
          livenessProbe: {{httpGet: {{path: /health, port: 30000}}, periodSeconds: 60, timeoutSeconds: 30, failureThreshold: 5}}
          resources:
            requests: {{cpu: "8", memory: 64Gi, amd.com/gpu: "1"}}
            limits: {{memory: 256Gi, amd.com/gpu: "1"}}
          securityContext: {{capabilities: {{add: [SYS_PTRACE]}}}}
          volumeMounts:
            - {{name: models, mountPath: /models}}
            - {{name: shm, mountPath: /dev/shm}}
      containers:
        - name: lease
          image: sluice:local
          args: [replica, sglang, --model={model}, "--url=http://$(POD_IP):30000", --hardware=mi355x, --drain-s=3600, --ready-file=/tmp/in-service]
          env:
            - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
            - {{name: REDIS_URL, valueFrom: {{secretKeyRef: {{name: sluice-store, key: REDIS_URL}}}}}}
          # A pod counts once its replica is registered: a roll-out to what fails its canary stops at the first one.
          readinessProbe: {{exec: {{command: [test, -e, /tmp/in-service]}}, periodSeconds: 5}}
          resources: {{requests: {{cpu: 50m, memory: 96Mi}}, limits: {{memory: 256Mi}}}}
          securityContext: {{runAsNonRoot: true, runAsUser: 10001, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
          volumeMounts:
            - {{name: tmp, mountPath: /tmp}}
            - {{name: tmp, mountPath: /var/lib/sluice}}
      volumes:
        - {{name: models, persistentVolumeClaim: {{claimName: models}}}}
        - {{name: shm, emptyDir: {{medium: Memory, sizeLimit: 16Gi}}}}
        - {{name: tmp, emptyDir: {{}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: {model}, namespace: sluice}}
spec:
  maxUnavailable: 1
  selector: {{matchLabels: {{app.kubernetes.io/name: {model}}}}}
"""


def files() -> Iterator[tuple[str, str]]:
    """Give each file's name and text."""
    for model in MODELS:
        # The device plugin shows a pod its own GPU alone, so none is named.
        line = launch_command(model, port=30000, host="0.0.0.0")  # noqa: S104 a pod's own address
        yield (
            f"{model}.yaml",
            TEXT.format(
                model=model,
                command="\n".join(f'            - "{word}"' for word in line.argv),
                env="\n".join(
                    f'            - {{name: {key}, value: "{value}"}}'
                    for key, value in line.env.items()
                ),
            ),
        )


def main() -> None:
    """Write them all."""
    for name, text in files():
        (DIRECTORY / name).write_text(text)
        sys.stderr.write(f"{DIRECTORY / name}\n")


if __name__ == "__main__":
    main()

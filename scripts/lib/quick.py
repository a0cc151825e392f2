"""The selection of `scripts/conformance --quick`: words of tests' names by area.

Some of everything basic, in eight minutes on two cores. Most are conformance tests;
what these leave out (attach, port-forward) is added.
"""

SECONDS = 480

# Not conformance tests.
BESIDE = {"exec, attach, port-forward, by kubectl": [
    "Kubectl client Simple pod should support exec using resource/name",
    "Kubectl client Simple pod should support inline execution and attach with websockets",
    "Kubectl Port forwarding With a server listening on localhost should support forwarding over websockets"]}

# Conformance tests.
AREAS = {
    "pods": ["Pods should be submitted and removed", "Pods should be updated", "Pods should get a host IP",
             "Pods should allow activeDeadlineSeconds to be updated", "Pods should contain environment variables for services",
             "Pods should run through the lifecycle of Pods and PodStatus", "InitContainer should invoke init containers on a",
             "PreStop should call prestop when killing a pod", "Ephemeral Containers will start an ephemeral container",
             "Containers should use the image defaults", "Security Context should support",
             "Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook"],
    "probes": ["should be restarted with a /healthz http liveness probe", "should be restarted with a GRPC liveness probe",
               "should be restarted with a exec \"cat /tmp/health\" liveness probe",
               "readiness probe should not be ready before initial delay"],
    "exec, attach, port-forward": [
        "Pods should support remote command execution over websockets",
        "Pods should support retrieving logs from the container over websockets",
        "Kubectl logs logs should be able to retrieve and filter logs",
        "Kubectl client Kubectl run pod should create a pod from an image"],
    "services": ["DNS should provide DNS for the cluster", "DNS should provide DNS for services",
                 "Services should serve a basic endpoint from pods", "Services should serve multiport endpoints from pods",
                 "Services should be able to create a functioning NodePort service",
                 "Services should have session affinity work for service with type clusterIP",
                 "Networking Granular Checks: Pods should function for", "Proxy version v1 should proxy through a service and a pod",
                 "Proxy version v1 A set of valid responses are returned for both pod and service Proxy",
                 "EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service"],
    "volumes": ["EmptyDir volumes should support (root,0644,default)", "EmptyDir volumes should support (non-root,0777,tmpfs)",
                "Projected combined should project all components", "Subpath Atomic writer volumes should support subpaths with",
                "Downward API volume should update labels on modification", "ImageVolume should succeed with pod",
                "PersistentVolumes CSI Conformance should run through the lifecycle"],
    "config maps": ["ConfigMap should be consumable from pods in volume with mappings", "ConfigMap updates should be reflected",
                    "ConfigMap should be consumable via the environment",
                    "ConfigMap should be consumable as environment variable names"],
    "secrets": ["Secrets should be consumable from pods in volume with defaultMode set",
                "Secrets should be consumable from pods in env",
                "Secrets optional updates should be reflected in volume"],
    "RBAC": ["SubjectReview should support SubjectReview API operations", "ServiceAccounts should mount an API token into pods",
             "ServiceAccountIssuerDiscovery should support OIDC discovery", "should guarantee kube-root-ca.crt exist"],
    "CRDs": ["Simple CustomResourceDefinition creating/deleting custom resource",
             "CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD with validation",
             "AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource", "should be able to convert from CR v1 to CR v2"],
    "kubelet": ["Kubelet when scheduling", "KubeletManagedEtcHosts should test kubelet managed", "Lease lease API should be available",
                "Container Runtime blackbox test when starting a container that exits", "Sysctls [LinuxOnly] should support sysctls"],
    "workloads": ["Deployment RollingUpdateDeployment should delete old pods", "Job should delete a job",
                  "StatefulSetBasic] should have a working scale subresource", "ReplicaSet should serve a basic image"],
}

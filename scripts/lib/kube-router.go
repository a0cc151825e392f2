// The controller of network policies of kube-router, and nothing else of it. Its own program links routing, BGP and the
// libraries of two clouds along, and keeps every service, endpoint and node of the cluster in memory on each node.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Rules are written at least once in a period of the controller; who is silent for as many of them hangs.
const silentPeriods = 5

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	klog.InitFlags(nil)
	config := options.NewKubeRouterConfig()
	config.AddFlags(pflag.CommandLine)
	pflag.Parse()
	for name, value := range map[string]string{"logtostderr": "true", "v": config.VLevel} {
		if err := flag.Set(name, value); err != nil {
			return err
		}
	}
	where, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(where)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim))
	pods := factory.Core().V1().Pods().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	factory.Start(stop)
	late := make(chan struct{})
	time.AfterFunc(config.CacheSyncTimeout, func() { close(late) })
	if !cache.WaitForCacheSync(late, pods.HasSynced, namespaces.HasSynced, policies.HasSynced) {
		return fmt.Errorf("the API server did not say within %s which pods and policies there are", config.CacheSyncTimeout)
	}
	tables, sets, err := netpol.NewIPTablesHandlers(config)
	if err != nil {
		return err
	}
	var lock sync.Mutex
	controller, err := netpol.NewNetworkPolicyController(client, config, pods, policies, namespaces, &lock, tables, sets)
	if err != nil {
		return err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		pods: controller.PodEventHandler, namespaces: controller.NamespaceEventHandler,
		policies: controller.NetworkPolicyEventHandler,
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	beats := make(chan *healthcheck.ControllerHeartbeat, 10)
	var running sync.WaitGroup
	running.Add(1)
	go controller.Run(beats, stop, &running)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	for {
		select {
		case <-beats:
		case <-time.After(silentPeriods * config.IPTablesSyncPeriod):
			return fmt.Errorf("no rules were written for %d periods", silentPeriods)
		case <-signals:
			close(stop)
			return nil
		}
	}
}

// What of a pod policies are made of. The rest of all pods of a large cluster would fill each node's memory.
func slim(object interface{}) (interface{}, error) {
	if accessor, ok := object.(meta.Object); ok {
		accessor.SetManagedFields(nil)
		accessor.SetAnnotations(nil)
	}
	pod, ok := object.(*core.Pod)
	if !ok {
		return object, nil
	}
	ports := func(containers []core.Container) (out []core.Container) {
		for _, container := range containers {
			if len(container.Ports) > 0 {
				out = append(out, core.Container{Name: container.Name, Ports: container.Ports})
			}
		}
		return out
	}
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels,
		},
		Spec: core.PodSpec{
			NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork,
			Containers: ports(pod.Spec.Containers), InitContainers: ports(pod.Spec.InitContainers),
		},
		Status: core.PodStatus{
			Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs, HostIP: pod.Status.HostIP,
		},
	}, nil
}

package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/url"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// relist is the interval at which the runtime is queried for changed containers: containerd 1.6 has no events for them.
const relist = 200 * time.Millisecond

// agent holds the state that the workers of all pods share.
type agent struct {
	options
	client  kubernetes.Interface
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	apiHost string
	apiPort string

	lock    sync.Mutex
	workers map[string]*worker
}

// run registers the node and runs its pods until the context ends. As with a kubelet, pods continue without the agent.
func (a *agent) run(ctx context.Context) error {
	if err := a.clear(ctx); err != nil {
		return fmt.Errorf("remove what an earlier agent left: %w", err)
	}
	if err := a.register(ctx); err != nil {
		return fmt.Errorf("register the node: %w", err)
	}
	mine := informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.node).String()
	})
	factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0, mine)
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { a.see(ctx, object) },
		UpdateFunc: func(_, object any) { a.see(ctx, object) },
		DeleteFunc: a.lose,
	}
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("the API server did not list the node's pods")
	}
	log.Printf("node %s is registered", a.node)
	go a.heartbeat(ctx)
	a.watchContainers(ctx)
	return nil
}

// see passes a pod to its worker, which it creates for a new pod. Pods are identified by UID, because a name may be
// reused.
func (a *agent) see(ctx context.Context, object any) {
	pod, ok := object.(*v1.Pod)
	if !ok {
		return
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	uid := string(pod.UID)
	if known := a.workers[uid]; known != nil {
		known.update(pod)
		return
	}
	// The pod has finished, and without a worker there is nothing to clean up.
	if finished(pod) && pod.DeletionTimestamp == nil {
		return
	}
	worker := newWorker(a, pod)
	a.workers[uid] = worker
	go func() {
		worker.run(ctx)
		a.lock.Lock()
		defer a.lock.Unlock()
		delete(a.workers, uid)
	}()
}

// lose ends a pod that vanished from the API without a graceful deletion (a forced one).
func (a *agent) lose(object any) {
	if stale, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = stale.Obj
	}
	pod, ok := object.(*v1.Pod)
	if !ok {
		return
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	if known := a.workers[string(pod.UID)]; known != nil {
		known.forget()
	}
}

// watchContainers wakes the workers of pods whose containers changed.
func (a *agent) watchContainers(ctx context.Context) {
	before := map[string]cri.ContainerState{}
	every(ctx, relist, func() {
		answer, err := a.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
		if err != nil {
			log.Printf("list containers (will retry): %v", err)
			return
		}
		now := map[string]cri.ContainerState{}
		for _, container := range answer.Containers {
			now[container.Id] = container.State
			if state, known := before[container.Id]; !known || state != container.State {
				a.wake(container.Labels[labelUID])
			}
		}
		before = now
	})
}

func (a *agent) wake(uid string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	if known := a.workers[uid]; known != nil {
		known.wake()
	}
}

// clear removes every pod sandbox, because the workers that knew them are gone.
func (a *agent) clear(ctx context.Context) error {
	answer, err := a.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, sandbox := range answer.Items {
		if err := a.removeSandbox(ctx, sandbox.Id); err != nil {
			return err
		}
	}
	return nil
}

// apiAddress is the value of KUBERNETES_SERVICE_HOST and _PORT in pods. There are no services here, so it is the
// server's own address.
func apiAddress(config *rest.Config) (host, port string, err error) {
	server, err := url.Parse(config.Host)
	if err != nil {
		return "", "", fmt.Errorf("parse the server's address in the kubeconfig: %w", err)
	}
	host, port, err = net.SplitHostPort(server.Host)
	if err != nil {
		return "", "", fmt.Errorf("parse the server's address in the kubeconfig: %w", err)
	}
	return host, port, nil
}

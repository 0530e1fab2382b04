package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tick is the maximum sleep of a worker, for restarts that are due, tokens to renew, and failed reports.
const tick = 500 * time.Millisecond

// worker reconciles one pod with its object, from first sight to end. All its work happens in its own goroutine.
type worker struct {
	agent  *agent
	dir    string
	signal chan struct{}

	lock   sync.Mutex
	latest *v1.Pod
	gone   bool

	sandbox  string
	ips      []string
	places   map[string]string
	renew    time.Time
	since    metav1.Time
	inits    []*container
	mains    []*container
	reason   string
	message  string
	stopped  bool
	reported *v1.PodStatus
}

func newWorker(a *agent, pod *v1.Pod) *worker {
	w := &worker{agent: a, dir: a.dir(pod), signal: make(chan struct{}, 1), latest: pod, since: metav1.Now()}
	for _, spec := range pod.Spec.InitContainers {
		w.inits = append(w.inits, &container{spec: spec, reason: "PodInitializing"})
	}
	for _, spec := range pod.Spec.Containers {
		w.mains = append(w.mains, &container{spec: spec, reason: "ContainerCreating"})
	}
	return w
}

func (w *worker) update(pod *v1.Pod) {
	w.lock.Lock()
	w.latest = pod
	w.lock.Unlock()
	w.wake()
}

func (w *worker) forget() {
	w.lock.Lock()
	w.gone = true
	w.lock.Unlock()
	w.wake()
}

func (w *worker) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

func (w *worker) run(ctx context.Context) {
	name := w.latest.Namespace + "/" + w.latest.Name
	for {
		w.lock.Lock()
		pod, gone := w.latest, w.gone
		w.lock.Unlock()
		ending := gone || pod.DeletionTimestamp != nil
		var err error
		if ending {
			err = w.end(ctx, pod, gone)
		} else {
			err = w.step(ctx, pod)
		}
		if err != nil {
			log.Printf("%s: %v", name, err)
		}
		if ending && err == nil {
			return
		}
		if !gone {
			if err := w.report(ctx, pod); err != nil {
				log.Printf("%s: report: %v", name, err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.signal:
		case <-time.After(tick):
		}
	}
}

// step does everything that can be done now. Errors are reported and the step is repeated.
func (w *worker) step(ctx context.Context, pod *v1.Pod) error {
	if w.reason != "" || w.stopped {
		return nil
	}
	if found := unsupported(pod); len(found) > 0 {
		w.reason = "Unsupported"
		w.message = "this node's agent does not support:  " + strings.Join(found, "; ")
		return nil
	}
	if err := w.prepare(ctx, pod); err != nil {
		w.mains[0].message = err.Error()
		return err
	}
	for _, c := range slices.Concat(w.inits, w.mains) {
		if c.id != "" && !c.exited() {
			if err := w.refresh(ctx, c); err != nil {
				return err
			}
		}
	}
	policy := pod.Spec.RestartPolicy
	for _, c := range w.inits {
		if c.succeeded() {
			continue
		}
		// A container that failed to start is retried, unless the pod runs only once.
		if c.id == "" || c.exited() && policy != v1.RestartPolicyNever {
			w.start(ctx, pod, c)
		}
		return nil
	}
	for _, c := range w.mains {
		if c.id == "" || c.again(policy) {
			w.start(ctx, pod, c)
		}
		w.probe(ctx, pod, c)
	}
	if phase := w.phase(pod); phase == v1.PodSucceeded || phase == v1.PodFailed {
		// As with a kubelet, its network ends with its last process.
		w.stopped = true
		_, err := w.agent.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: w.sandbox})
		return err
	}
	return nil
}

// prepare creates volumes and sandbox once, and renews tokens.
func (w *worker) prepare(ctx context.Context, pod *v1.Pod) error {
	a := w.agent
	if w.places == nil || !w.renew.IsZero() && time.Now().After(w.renew) {
		if w.places != nil {
			return w.renewTokens(ctx, pod)
		}
		if err := os.MkdirAll(a.logs(pod), 0o755); err != nil {
			return err
		}
		places, renew, err := a.volumes(ctx, pod)
		if err != nil {
			return err
		}
		w.places, w.renew = places, renew
	}
	if w.sandbox != "" {
		return nil
	}
	made, err := a.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: a.sandboxConfig(pod)})
	if err != nil {
		return fmt.Errorf("create the sandbox: %w", err)
	}
	w.sandbox = made.PodSandboxId
	if pod.Spec.HostNetwork {
		w.ips = a.addresses
		return nil
	}
	answer, err := a.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: w.sandbox})
	if err != nil {
		return err
	}
	w.ips = []string{answer.Status.Network.Ip}
	for _, more := range answer.Status.Network.AdditionalIps {
		w.ips = append(w.ips, more.Ip)
	}
	// As with a kubelet, the report follows the containers' start: they may send requests before the API knows their
	// addresses.
	return nil
}

func (w *worker) renewTokens(ctx context.Context, pod *v1.Pod) error {
	w.renew = time.Time{}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		due, err := w.agent.projected(ctx, pod, w.places[volume.Name], volume.Projected)
		if err != nil {
			w.renew = time.Now().Add(time.Second)
			return err
		}
		if !due.IsZero() && (w.renew.IsZero() || due.Before(w.renew)) {
			w.renew = due
		}
	}
	return nil
}

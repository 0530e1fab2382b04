package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// probes checks one running container. A restarted container gets new probes.
type probes struct {
	id      string
	started atomic.Bool
	ready   atomic.Bool
	cancel  context.CancelFunc
}

func (p *probes) stop() {
	if p != nil {
		p.cancel()
	}
}

// probe ensures that a container has probes exactly while it runs.
func (w *worker) probe(ctx context.Context, pod *v1.Pod, c *container) {
	if !c.running() {
		c.probes.stop()
		c.probes = nil
		return
	}
	if c.probes != nil && c.probes.id == c.id {
		return
	}
	c.probes.stop()
	ctx, cancel := context.WithCancel(ctx)
	p := &probes{id: c.id, cancel: cancel}
	p.started.Store(c.spec.StartupProbe == nil)
	p.ready.Store(c.spec.ReadinessProbe == nil)
	c.probes = p
	host := ""
	if len(w.ips) > 0 {
		host = w.ips[0]
	}
	name := pod.Namespace + "/" + pod.Name + "/" + c.spec.Name
	kill := func(kind string) {
		log.Printf("%s: the %s probe failed too often", name, kind)
		grace := int64(30)
		if pod.Spec.TerminationGracePeriodSeconds != nil {
			grace = *pod.Spec.TerminationGracePeriodSeconds
		}
		_, _ = w.agent.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: p.id, Timeout: grace})
	}
	ask := func(ctx context.Context, probe *v1.Probe) error { return w.agent.ask(ctx, p.id, host, probe, &c.spec) }
	spec := c.spec
	go func() {
		if spec.StartupProbe != nil {
			if !watch(ctx, spec.StartupProbe, ask, func(bool) bool { return false }) {
				kill("startup")
				return
			}
			p.started.Store(true)
			w.wake()
		}
		if spec.LivenessProbe != nil {
			go func() {
				if !watch(ctx, spec.LivenessProbe, ask, func(good bool) bool { return good }) {
					kill("liveness")
				}
			}()
		}
		if spec.ReadinessProbe != nil {
			watch(ctx, spec.ReadinessProbe, ask, func(good bool) bool {
				if p.ready.Swap(good) != good {
					w.wake()
				}
				return true
			})
		}
	}()
}

// watch probes repeatedly and reports every verdict, after thresholds, until `told` returns false. It returns the last
// verdict, or true if the context ends.
func watch(ctx context.Context, probe *v1.Probe, ask func(context.Context, *v1.Probe) error, told func(good bool) bool) bool {
	good, bad := int32(0), int32(0)
	delay := time.Duration(probe.InitialDelaySeconds) * time.Second
	for {
		select {
		case <-ctx.Done():
			return true
		case <-time.After(delay):
		}
		delay = time.Duration(probe.PeriodSeconds) * time.Second
		bounded, cancel := context.WithTimeout(ctx, time.Duration(probe.TimeoutSeconds)*time.Second)
		err := ask(bounded, probe)
		cancel()
		if ctx.Err() != nil {
			return true
		}
		if err != nil {
			good, bad = 0, bad+1
		} else {
			good, bad = good+1, 0
		}
		switch {
		case err == nil && good >= probe.SuccessThreshold:
			if !told(true) {
				return true
			}
		case err != nil && bad >= probe.FailureThreshold:
			if !told(false) {
				return false
			}
		}
	}
}

// ask runs one probe.
func (a *agent) ask(ctx context.Context, id, host string, probe *v1.Probe, spec *v1.Container) error {
	if probe.Exec != nil {
		answer, err := a.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: probe.Exec.Command})
		if err == nil && answer.ExitCode != 0 {
			err = fmt.Errorf("exit code %d", answer.ExitCode)
		}
		return err
	}
	get := probe.HTTPGet
	if get.Host != "" {
		host = get.Host
	}
	port := get.Port.IntValue()
	if get.Port.Type == intstr.String {
		for _, named := range spec.Ports {
			if named.Name == get.Port.StrVal {
				port = int(named.ContainerPort)
			}
		}
	}
	url := fmt.Sprintf("http://%s%s", net.JoinHostPort(host, fmt.Sprint(port)), get.Path)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-probe/1.36")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	return nil
}

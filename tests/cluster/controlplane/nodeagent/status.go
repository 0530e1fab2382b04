package main

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func finished(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// report writes the pod's status if it differs from the one written last.
func (w *worker) report(ctx context.Context, pod *v1.Pod) error {
	status := w.status(pod)
	if w.reported != nil && equality.Semantic.DeepEqual(*w.reported, status) {
		return nil
	}
	// The UID keeps the patch from changing another pod of the same name.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	pods := w.agent.client.CoreV1().Pods(pod.Namespace)
	_, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	w.reported = &status
	return nil
}

// status is the pod's status as the worker currently knows it. Conditions are merged by type, so the scheduler's own
// remain.
func (w *worker) status(pod *v1.Pod) v1.PodStatus {
	status := v1.PodStatus{
		Phase: w.phase(pod), Reason: w.reason, Message: w.message, StartTime: &w.since, HostIP: w.agent.addresses[0],
		HostIPs: w.agent.hostIPs(),
	}
	for _, ip := range w.ips {
		status.PodIPs = append(status.PodIPs, v1.PodIP{IP: ip})
	}
	if len(w.ips) > 0 {
		status.PodIP = w.ips[0]
	}
	for _, c := range w.inits {
		status.InitContainerStatuses = append(status.InitContainerStatuses, w.containerStatus(pod, c, true))
	}
	for _, c := range w.mains {
		status.ContainerStatuses = append(status.ContainerStatuses, w.containerStatus(pod, c, false))
	}
	initialized := !slices.ContainsFunc(w.inits, func(c *container) bool { return !c.succeeded() })
	ready := !w.stopped && !slices.ContainsFunc(status.ContainerStatuses, func(s v1.ContainerStatus) bool { return !s.Ready })
	facts := []struct {
		kind  v1.PodConditionType
		holds bool
	}{
		{v1.PodReadyToStartContainers, w.sandbox != "" && !w.stopped},
		{v1.PodInitialized, initialized},
		{v1.ContainersReady, ready},
		{v1.PodReady, ready},
	}
	for _, fact := range facts {
		status.Conditions = append(status.Conditions, w.condition(fact.kind, fact.holds))
	}
	return status
}

func (w *worker) condition(kind v1.PodConditionType, holds bool) v1.PodCondition {
	condition := v1.PodCondition{Type: kind, Status: v1.ConditionFalse, LastTransitionTime: metav1.Time{Time: time.Now().Truncate(time.Second)}}
	if holds {
		condition.Status = v1.ConditionTrue
	}
	if w.reported != nil {
		for _, before := range w.reported.Conditions {
			if before.Type == kind && before.Status == condition.Status {
				return before
			}
		}
	}
	return condition
}

// phase follows a kubelet's rules.
func (w *worker) phase(pod *v1.Pod) v1.PodPhase {
	if w.reason != "" {
		return v1.PodFailed
	}
	for _, c := range w.inits {
		if c.exited() && !c.succeeded() && pod.Spec.RestartPolicy == v1.RestartPolicyNever {
			return v1.PodFailed
		}
		if !c.succeeded() {
			return v1.PodPending
		}
	}
	running, failed := 0, 0
	for _, c := range w.mains {
		switch {
		case c.id == "":
			return v1.PodPending
		case !c.exited(), c.again(pod.Spec.RestartPolicy):
			running++
		case !c.succeeded():
			failed++
		}
	}
	switch {
	case running > 0:
		return v1.PodRunning
	case failed > 0:
		return v1.PodFailed
	default:
		return v1.PodSucceeded
	}
}

func (w *worker) containerStatus(pod *v1.Pod, c *container, init bool) v1.ContainerStatus {
	started := c.running() && (init || c.probes != nil && c.probes.started.Load())
	status := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.image, RestartCount: int32(c.attempt), Started: &started,
		Ready: init && c.succeeded() || !init && started && c.probes.ready.Load(),
	}
	if c.id != "" {
		status.ContainerID = "containerd://" + c.id
	}
	switch {
	case c.running():
		status.State.Running = &v1.ContainerStateRunning{StartedAt: moment(c.now.StartedAt)}
	case c.exited():
		ended := terminated(c.now)
		status.State.Terminated = ended
		if !init && !w.stopped && c.again(pod.Spec.RestartPolicy) {
			status.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: c.message}}
			status.LastTerminationState.Terminated = ended
		}
	default:
		status.State.Waiting = &v1.ContainerStateWaiting{Reason: c.reason, Message: c.message}
	}
	if c.last != nil && status.LastTerminationState.Terminated == nil {
		status.LastTerminationState.Terminated = terminated(c.last)
	}
	return status
}

func terminated(ended *cri.ContainerStatus) *v1.ContainerStateTerminated {
	reason := ended.Reason
	if reason == "" && ended.ExitCode == 0 {
		reason = "Completed"
	}
	return &v1.ContainerStateTerminated{
		ExitCode: ended.ExitCode, Reason: reason, Message: ended.Message, ContainerID: "containerd://" + ended.Id,
		StartedAt: moment(ended.StartedAt), FinishedAt: moment(ended.FinishedAt),
	}
}

func moment(nanoseconds int64) metav1.Time {
	return metav1.Time{Time: time.Unix(0, nanoseconds).Truncate(time.Second)}
}

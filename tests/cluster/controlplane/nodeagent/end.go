package main

import (
	"context"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// end stops the pod within its grace period, and removes its object last, as a kubelet does.
func (w *worker) end(ctx context.Context, pod *v1.Pod, gone bool) error {
	a := w.agent
	grace := int64(30)
	if pod.DeletionGracePeriodSeconds != nil {
		grace = *pod.DeletionGracePeriodSeconds
	}
	if gone {
		grace = 0
	}
	var group sync.WaitGroup
	for _, c := range slices.Concat(w.inits, w.mains) {
		c.probes.stop()
		if c.id == "" || c.exited() {
			continue
		}
		group.Go(func() {
			// A container that cannot be stopped is removed with the sandbox.
			_, _ = a.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: grace})
			_ = w.refresh(ctx, c)
		})
	}
	group.Wait()
	w.stopped = true
	if !gone {
		if err := w.report(ctx, pod); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if w.sandbox != "" {
		if err := a.removeSandbox(ctx, w.sandbox); err != nil {
			return err
		}
		if err := a.removeCgroup(pod); err != nil {
			return err
		}
	}
	if err := a.removeVolumes(pod); err != nil {
		return err
	}
	if gone {
		return nil
	}
	zero := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	err := a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

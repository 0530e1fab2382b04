package main

import (
	"context"
	"log"
	"net/netip"
	"runtime"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// beat is the interval of the node's heartbeat; the node controller waits 50 s.
const beat = 10 * time.Second

// register creates the Node object or adopts an existing one, and reports the node as ready.
func (a *agent) register(ctx context.Context) error {
	labels := map[string]string{v1.LabelHostname: a.node, v1.LabelOSStable: "linux", v1.LabelArchStable: runtime.GOARCH}
	for key, value := range a.labels {
		labels[key] = value
	}
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.node, Labels: labels}}
	_, err := a.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return a.report(ctx)
}

func (a *agent) heartbeat(ctx context.Context) {
	every(ctx, beat, func() {
		if err := a.report(ctx); err != nil {
			log.Printf("report the node's status (will retry): %v", err)
		}
	})
}

// every calls do repeatedly, with a pause before each call, until the context ends.
func every(ctx context.Context, pause time.Duration, do func()) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		do()
	}
}

// report writes the node's status. The node controller removes the not-ready taint when it sees the node ready.
func (a *agent) report(ctx context.Context) error {
	version, err := a.runtime.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	node = node.DeepCopy()
	// Enough for a node's pods, regardless of the machine: nothing here enforces it.
	capacity := v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse("8"),
		v1.ResourceMemory:           resource.MustParse("16Gi"),
		v1.ResourcePods:             resource.MustParse("250"),
		v1.ResourceEphemeralStorage: resource.MustParse("16Gi"),
	}
	status := &node.Status
	status.Capacity, status.Allocatable = capacity, capacity
	status.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: a.node}}
	for _, address := range a.addresses {
		status.Addresses = append(status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: address})
	}
	status.NodeInfo.Architecture, status.NodeInfo.OperatingSystem = runtime.GOARCH, "linux"
	status.NodeInfo.ContainerRuntimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	status.Conditions = conditions(status.Conditions)
	_, err = a.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

func conditions(before []v1.NodeCondition) []v1.NodeCondition {
	now := metav1.Now()
	wanted := []v1.NodeCondition{
		{Type: v1.NodeMemoryPressure, Status: v1.ConditionFalse, Reason: "NotMeasured"},
		{Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, Reason: "NotMeasured"},
		{Type: v1.NodePIDPressure, Status: v1.ConditionFalse, Reason: "NotMeasured"},
		{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "AgentReady"},
	}
	for i := range wanted {
		wanted[i].LastHeartbeatTime, wanted[i].LastTransitionTime = now, now
		for _, old := range before {
			if old.Type == wanted[i].Type && old.Status == wanted[i].Status {
				wanted[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return wanted
}

// hostIPs are the node's addresses in the format of a pod's status. A pod on the host network has the same addresses.
func (a *agent) hostIPs() []v1.HostIP {
	var found []v1.HostIP
	for _, address := range a.addresses {
		found = append(found, v1.HostIP{IP: netip.MustParseAddr(address).String()})
	}
	return found
}

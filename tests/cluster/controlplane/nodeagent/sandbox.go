package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// The labels that identify a container's pod, as a kubelet sets them.
const (
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

// cgroupOf is the pod's cgroup below the cgroup root, at the place that a kubelet with the cgroupfs driver uses.
func cgroupOf(pod *v1.Pod) string {
	class := qos.ComputePodQOS(pod)
	if class == v1.PodQOSGuaranteed {
		return "/kubepods/pod" + string(pod.UID)
	}
	return "/kubepods/" + strings.ToLower(string(class)) + "/pod" + string(pod.UID)
}

func (a *agent) sandboxConfig(pod *v1.Pod) *cri.PodSandboxConfig {
	hostname := pod.Spec.Hostname
	if hostname == "" {
		hostname = pod.Name
	}
	if pod.Spec.HostNetwork {
		// The host's own name applies; the runtime must not set another.
		hostname = ""
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)},
		Hostname:     hostname,
		LogDirectory: a.logs(pod),
		Labels:       map[string]string{labelPod: pod.Name, labelNamespace: pod.Namespace, labelUID: string(pod.UID)},
		Annotations:  pod.Annotations,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: cgroupOf(pod),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(pod),
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

func namespaces(pod *v1.Pod) *cri.NamespaceOption {
	options := &cri.NamespaceOption{
		Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD,
	}
	if pod.Spec.HostNetwork {
		options.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace {
		options.Pid = cri.NamespaceMode_POD
	}
	if pod.Spec.HostPID {
		options.Pid = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = cri.NamespaceMode_NODE
	}
	return options
}

// securityContext merges the settings of pod and container.
func securityContext(pod *v1.Pod, container *v1.Container, imageUser *int64) (*cri.LinuxContainerSecurityContext, error) {
	wanted := securitycontext.DetermineEffectiveSecurityContext(pod, container)
	result := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod),
		Privileged:       wanted.Privileged != nil && *wanted.Privileged,
		ReadonlyRootfs:   wanted.ReadOnlyRootFilesystem != nil && *wanted.ReadOnlyRootFilesystem,
		NoNewPrivs:       securitycontext.AddNoNewPrivileges(wanted),
		MaskedPaths:      securitycontext.ConvertToRuntimeMaskedPaths(wanted.ProcMount),
		ReadonlyPaths:    securitycontext.ConvertToRuntimeReadonlyPaths(wanted.ProcMount),
		Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
	}
	if pod.Spec.SecurityContext != nil {
		result.SupplementalGroups = pod.Spec.SecurityContext.SupplementalGroups
	}
	profile := wanted.SeccompProfile
	// `wanted` contains only some of the pod's fields, and not this one.
	if profile == nil && pod.Spec.SecurityContext != nil {
		profile = pod.Spec.SecurityContext.SeccompProfile
	}
	if profile != nil {
		switch profile.Type {
		case v1.SeccompProfileTypeRuntimeDefault:
			result.Seccomp.ProfileType = cri.SecurityProfile_RuntimeDefault
		case v1.SeccompProfileTypeUnconfined:
		default:
			return nil, fmt.Errorf("seccomp profile %s is not supported", profile.Type)
		}
	}
	if capabilities := wanted.Capabilities; capabilities != nil {
		result.Capabilities = &cri.Capability{}
		for _, name := range capabilities.Add {
			result.Capabilities.AddCapabilities = append(result.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range capabilities.Drop {
			result.Capabilities.DropCapabilities = append(result.Capabilities.DropCapabilities, string(name))
		}
	}
	if selinux := wanted.SELinuxOptions; selinux != nil {
		result.SelinuxOptions = &cri.SELinuxOption{
			User: selinux.User, Role: selinux.Role, Type: selinux.Type, Level: selinux.Level,
		}
	}
	user := imageUser
	if wanted.RunAsUser != nil {
		user = wanted.RunAsUser
		result.RunAsUser = &cri.Int64Value{Value: *user}
	}
	if wanted.RunAsGroup != nil {
		result.RunAsGroup = &cri.Int64Value{Value: *wanted.RunAsGroup}
		// The runtime accepts a group only together with a user.
		if result.RunAsUser == nil && user != nil {
			result.RunAsUser = &cri.Int64Value{Value: *user}
		}
	}
	if wanted.RunAsNonRoot != nil && *wanted.RunAsNonRoot && (user == nil || *user == 0) {
		return nil, fmt.Errorf("runAsNonRoot is set, but the image runs as root or as a non-numeric user")
	}
	return result, nil
}

// removeSandbox stops and removes a sandbox with all its containers. A missing sandbox is not an error.
func (a *agent) removeSandbox(ctx context.Context, id string) error {
	if _, err := a.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !isGone(err) {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	if _, err := a.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !isGone(err) {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// removeCgroup removes the pod's own cgroup, which the runtime leaves behind.
func (a *agent) removeCgroup(pod *v1.Pod) error {
	err := os.Remove(filepath.Join(a.cgroups, cgroupOf(pod)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (a *agent) dir(pod *v1.Pod) string {
	return filepath.Join(a.root, "pods", string(pod.UID))
}

func (a *agent) logs(pod *v1.Pod) string {
	return filepath.Join(a.root, "logs", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

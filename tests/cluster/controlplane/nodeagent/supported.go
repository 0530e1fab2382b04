package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// containerFields lists the container fields that the agent implements, or that have no meaning for the node.
const containerFields = `name image imagePullPolicy command args workingDir terminationMessagePath terminationMessagePolicy stdin
	ports[].name ports[].containerPort ports[].hostPort ports[].hostIP ports[].protocol
	env[].name env[].value env[].valueFrom.fieldRef.fieldPath env[].valueFrom.fieldRef.apiVersion
	env[].valueFrom.configMapKeyRef.name env[].valueFrom.configMapKeyRef.key
	env[].valueFrom.secretKeyRef.name env[].valueFrom.secretKeyRef.key
	resources.limits.* resources.requests.*
	volumeMounts[].name volumeMounts[].mountPath volumeMounts[].readOnly volumeMounts[].mountPropagation
	volumeMounts[].recursiveReadOnly
	securityContext.capabilities.add[] securityContext.capabilities.drop[] securityContext.privileged
	securityContext.readOnlyRootFilesystem securityContext.allowPrivilegeEscalation securityContext.procMount
	securityContext.runAsUser securityContext.runAsGroup securityContext.runAsNonRoot
	securityContext.seccompProfile.type securityContext.seLinuxOptions.*`

const probeFields = `initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold
	httpGet.path httpGet.port httpGet.host httpGet.scheme exec.command[]`

// podFields lists the pod fields likewise, including those for the scheduler and admission.
const podFields = `nodeName nodeSelector.* affinity.* tolerations[].* topologySpreadConstraints[].* schedulerName schedulingGates[].*
	priority priorityClassName preemptionPolicy imagePullSecrets[].* enableServiceLinks runtimeClassName.none
	restartPolicy terminationGracePeriodSeconds dnsPolicy hostNetwork hostPID hostIPC shareProcessNamespace hostname
	serviceAccountName serviceAccount automountServiceAccountToken
	securityContext.runAsUser securityContext.runAsGroup securityContext.runAsNonRoot securityContext.supplementalGroups[]
	securityContext.seccompProfile.type securityContext.seLinuxOptions.*
	volumes[].name volumes[].hostPath.path volumes[].hostPath.type volumes[].emptyDir.medium volumes[].emptyDir.sizeLimit
	volumes[].projected.defaultMode
	volumes[].projected.sources[].serviceAccountToken.*
	volumes[].projected.sources[].configMap.name volumes[].projected.sources[].configMap.items[].key
	volumes[].projected.sources[].configMap.items[].path
	volumes[].projected.sources[].downwardAPI.items[].path
	volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath
	volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion
	volumes[].configMap.name volumes[].configMap.defaultMode`

var supportedFields = supported()

func supported() []string {
	fields := strings.Fields(podFields)
	for _, list := range []string{"containers[].", "initContainers[]."} {
		for _, field := range strings.Fields(containerFields) {
			fields = append(fields, list+field)
		}
	}
	for _, probe := range []string{"startupProbe.", "livenessProbe.", "readinessProbe."} {
		for _, field := range strings.Fields(probeFields) {
			fields = append(fields, "containers[]."+probe+field)
		}
	}
	return fields
}

// unsupported lists the fields of a pod that the agent would have to ignore, and unsupported values.
func unsupported(pod *v1.Pod) []string {
	text, err := json.Marshal(pod.Spec)
	if err != nil {
		return []string{err.Error()}
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return []string{err.Error()}
	}
	var found []string
	for key, value := range spec {
		leaves(key, value, func(path string) {
			if !isSupported(path) && !slices.Contains(found, path) {
				found = append(found, path)
			}
		})
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		found = append(found, unsupportedValues(pod, &container)...)
	}
	sort.Strings(found)
	return found
}

func unsupportedValues(pod *v1.Pod, container *v1.Container) []string {
	var found []string
	if container.ImagePullPolicy == v1.PullAlways {
		found = append(found, fmt.Sprintf("%s: imagePullPolicy Always: images are never pulled here", container.Name))
	}
	for _, port := range container.Ports {
		if port.HostPort != 0 && !pod.Spec.HostNetwork {
			found = append(found, fmt.Sprintf("%s: hostPort %d", container.Name, port.HostPort))
		}
	}
	for _, mount := range container.VolumeMounts {
		if mount.RecursiveReadOnly != nil && *mount.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
			found = append(found, fmt.Sprintf("%s: recursiveReadOnly Enabled", container.Name))
		}
	}
	return found
}

// leaves calls visit with the path of every value that is neither an object nor a list. Empty objects and lists count
// as absent.
func leaves(path string, value any, visit func(string)) {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			leaves(path+"."+key, inner, visit)
		}
	case []any:
		for _, inner := range value {
			leaves(path+"[]", inner, visit)
		}
	default:
		visit(path)
	}
}

func isSupported(path string) bool {
	return slices.ContainsFunc(supportedFields, func(field string) bool {
		if open, found := strings.CutSuffix(field, "*"); found {
			return strings.HasPrefix(path, open)
		}
		// A list of scalars may be listed without the final `[]`.
		return path == field || path == field+"[]"
	})
}

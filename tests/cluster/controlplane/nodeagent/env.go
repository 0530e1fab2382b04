package main

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment is the environment of a container, also as a map for $(NAME) in its command and arguments.
func (a *agent) environment(ctx context.Context, pod *v1.Pod, container *v1.Container, ips []string) ([]*cri.KeyValue, map[string]string, error) {
	list := []*cri.KeyValue{
		{Key: "KUBERNETES_SERVICE_HOST", Value: []byte(a.apiHost)},
		{Key: "KUBERNETES_SERVICE_PORT", Value: []byte(a.apiPort)},
		{Key: "KUBERNETES_SERVICE_PORT_HTTPS", Value: []byte(a.apiPort)},
	}
	values := map[string]string{}
	for _, pair := range list {
		values[pair.Key] = string(pair.Value)
	}
	for _, variable := range container.Env {
		value, err := a.value(ctx, pod, variable, values, ips)
		if err != nil {
			return nil, nil, fmt.Errorf("env %s: %w", variable.Name, err)
		}
		values[variable.Name] = value
		list = append(list, &cri.KeyValue{Key: variable.Name, Value: []byte(value)})
	}
	return list, values, nil
}

func (a *agent) value(ctx context.Context, pod *v1.Pod, variable v1.EnvVar, known map[string]string, ips []string) (string, error) {
	source := variable.ValueFrom
	if source == nil {
		return expansion.Expand(variable.Value, expansion.MappingFuncFor(known)), nil
	}
	switch {
	case source.FieldRef != nil:
		return a.field(pod, ips, source.FieldRef.FieldPath)
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		found, err := a.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if value, exists := found.Data[ref.Key]; exists {
			return value, nil
		}
		return "", fmt.Errorf("config map %s has no key %s", ref.Name, ref.Key)
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		found, err := a.client.CoreV1().Secrets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if value, exists := found.Data[ref.Key]; exists {
			return string(value), nil
		}
		return "", fmt.Errorf("secret %s has no key %s", ref.Name, ref.Key)
	default:
		return "", fmt.Errorf("unsupported kind of valueFrom")
	}
}

// field is the value of a field of the pod, by its path in the downward API.
func (a *agent) field(pod *v1.Pod, ips []string, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return a.node, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return a.addresses[0], nil
	case "status.hostIPs":
		return strings.Join(a.addresses, ","), nil
	case "status.podIP":
		if len(ips) == 0 {
			return "", fmt.Errorf("the pod has no address")
		}
		return ips[0], nil
	case "status.podIPs":
		return strings.Join(ips, ","), nil
	default:
		return fieldpath.ExtractFieldPathAsString(pod, path)
	}
}

// expand replaces $(NAME) in the words of a command line.
func expand(words []string, values map[string]string) []string {
	var result []string
	for _, word := range words {
		result = append(result, expansion.Expand(word, expansion.MappingFuncFor(values)))
	}
	return result
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumes creates a pod's volumes. It returns their paths on the node by name; renew is when a token in them must be
// replaced.
func (a *agent) volumes(ctx context.Context, pod *v1.Pod) (places map[string]string, renew time.Time, err error) {
	places = map[string]string{}
	for _, volume := range pod.Spec.Volumes {
		place := filepath.Join(a.dir(pod), "volumes", volume.Name)
		var due time.Time
		switch {
		case volume.HostPath != nil:
			place, err = volume.HostPath.Path, hostPath(volume.HostPath)
		case volume.EmptyDir != nil:
			err = emptyDir(place, volume.EmptyDir)
		case volume.Projected != nil:
			due, err = a.projected(ctx, pod, place, volume.Projected)
		case volume.ConfigMap != nil:
			err = a.configMap(ctx, pod, place, &v1.ConfigMapProjection{LocalObjectReference: volume.ConfigMap.LocalObjectReference})
		default:
			err = fmt.Errorf("unsupported kind of volume")
		}
		if err != nil {
			return nil, renew, fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		places[volume.Name] = place
		if !due.IsZero() && (renew.IsZero() || due.Before(renew)) {
			renew = due
		}
	}
	return places, renew, nil
}

func hostPath(source *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	if kind == v1.HostPathDirectoryOrCreate {
		return os.MkdirAll(source.Path, 0o755)
	}
	if kind == v1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(source.Path)
	if err != nil {
		return err
	}
	fits := map[v1.HostPathType]bool{
		v1.HostPathDirectory: info.IsDir(),
		v1.HostPathFile:      info.Mode().IsRegular(),
		v1.HostPathSocket:    info.Mode()&os.ModeSocket != 0,
	}
	if !fits[kind] {
		return fmt.Errorf("%s is not a %s", source.Path, kind)
	}
	return nil
}

func emptyDir(place string, source *v1.EmptyDirVolumeSource) error {
	if err := os.MkdirAll(place, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(place, 0o777); err != nil {
		return err
	}
	switch source.Medium {
	case v1.StorageMediumDefault:
		if source.SizeLimit != nil {
			return fmt.Errorf("a sizeLimit is supported for medium Memory only")
		}
		return nil
	case v1.StorageMediumMemory:
		data := "mode=0777"
		if source.SizeLimit != nil {
			data += ",size=" + strconv.FormatInt(source.SizeLimit.Value(), 10)
		}
		return syscall.Mount("tmpfs", place, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, data)
	default:
		return fmt.Errorf("medium %s is not supported", source.Medium)
	}
}

func (a *agent) projected(ctx context.Context, pod *v1.Pod, place string, source *v1.ProjectedVolumeSource) (renew time.Time, err error) {
	for _, part := range source.Sources {
		switch {
		case part.ServiceAccountToken != nil:
			renew, err = a.token(ctx, pod, place, part.ServiceAccountToken)
		case part.ConfigMap != nil:
			err = a.configMap(ctx, pod, place, part.ConfigMap)
		case part.DownwardAPI != nil:
			for _, item := range part.DownwardAPI.Items {
				var value string
				if value, err = a.field(pod, nil, item.FieldRef.FieldPath); err == nil {
					err = put(place, item.Path, value)
				}
			}
		default:
			err = fmt.Errorf("unsupported kind of source")
		}
		if err != nil {
			return renew, err
		}
	}
	return renew, nil
}

// token requests a token that is bound to the pod. It returns when a kubelet would renew it: at four fifths of its
// lifetime.
func (a *agent) token(ctx context.Context, pod *v1.Pod, place string, source *v1.ServiceAccountTokenProjection) (time.Time, error) {
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	account := pod.Spec.ServiceAccountName
	answer, err := a.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("token of service account %s: %w", account, err)
	}
	life := time.Until(answer.Status.ExpirationTimestamp.Time)
	return time.Now().Add(life * 4 / 5), put(place, source.Path, answer.Status.Token)
}

func (a *agent) configMap(ctx context.Context, pod *v1.Pod, place string, source *v1.ConfigMapProjection) error {
	found, err := a.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, source.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	items := source.Items
	if items == nil {
		for key := range found.Data {
			items = append(items, v1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		value, known := found.Data[item.Key]
		if !known {
			return fmt.Errorf("config map %s has no key %s", source.Name, item.Key)
		}
		if err := put(place, item.Path, value); err != nil {
			return err
		}
	}
	return nil
}

// put writes a file atomically: readers see the old content or the new content.
func put(dir, name, content string) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// removeVolumes removes what volumes created. Host paths belong to the node and are kept.
func (a *agent) removeVolumes(pod *v1.Pod) error {
	for _, volume := range pod.Spec.Volumes {
		if volume.EmptyDir != nil && volume.EmptyDir.Medium == v1.StorageMediumMemory {
			// An error means that it is not mounted.
			_ = syscall.Unmount(filepath.Join(a.dir(pod), "volumes", volume.Name), syscall.MNT_DETACH)
		}
	}
	return os.RemoveAll(a.dir(pod))
}

func mounts(container *v1.Container, places map[string]string) ([]*cri.Mount, error) {
	propagations := map[v1.MountPropagationMode]cri.MountPropagation{
		v1.MountPropagationNone:            cri.MountPropagation_PROPAGATION_PRIVATE,
		v1.MountPropagationHostToContainer: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		v1.MountPropagationBidirectional:   cri.MountPropagation_PROPAGATION_BIDIRECTIONAL,
	}
	var result []*cri.Mount
	for _, mount := range container.VolumeMounts {
		place, known := places[mount.Name]
		if !known {
			return nil, fmt.Errorf("pod has no volume %s", mount.Name)
		}
		propagation := cri.MountPropagation_PROPAGATION_PRIVATE
		if mount.MountPropagation != nil {
			propagation = propagations[*mount.MountPropagation]
		}
		result = append(result, &cri.Mount{
			ContainerPath: mount.MountPath, HostPath: place, Readonly: mount.ReadOnly, Propagation: propagation,
		})
	}
	return result, nil
}

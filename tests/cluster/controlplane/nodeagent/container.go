package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The backoff of container restarts: none at first, then growing. It is shorter than a kubelet's, to keep tests fast.
const (
	firstWait = time.Second
	longWait  = 30 * time.Second
)

// longestWords is the maximum size of a termination message, as in a kubelet.
const longestWords = 4096

// container is one container of a pod, across all its restarts.
type container struct {
	spec v1.Container
	// id is empty before the first start.
	id      string
	attempt uint32
	image   string
	now     *cri.ContainerStatus
	last    *cri.ContainerStatus
	// Why it is not running, in a kubelet's terms.
	reason  string
	message string
	// When it may start next, and the backoff after that.
	notBefore time.Time
	wait      time.Duration
	probes    *probes
}

func (c *container) running() bool {
	return c.now != nil && c.now.State == cri.ContainerState_CONTAINER_RUNNING
}

func (c *container) exited() bool {
	return c.now != nil && c.now.State == cri.ContainerState_CONTAINER_EXITED
}

func (c *container) succeeded() bool {
	return c.exited() && c.now.ExitCode == 0
}

// again reports whether a container has ended and the pod's restart policy restarts it.
func (c *container) again(policy v1.RestartPolicy) bool {
	return c.exited() && (policy == v1.RestartPolicyAlways || policy == v1.RestartPolicyOnFailure && !c.succeeded())
}

// start creates and starts the container. Errors go to the container's status, and the start is retried.
func (w *worker) start(ctx context.Context, pod *v1.Pod, c *container) {
	if time.Now().Before(c.notBefore) {
		return
	}
	if c.wait = min(max(2*c.wait, firstWait), longWait); c.attempt == 0 && c.id == "" {
		c.notBefore = time.Now().Add(firstWait)
	} else {
		c.notBefore = time.Now().Add(c.wait)
	}
	if err := w.create(ctx, pod, c); err != nil {
		c.message = err.Error()
		return
	}
	c.reason, c.message = "", ""
}

func (w *worker) create(ctx context.Context, pod *v1.Pod, c *container) error {
	a := w.agent
	c.reason = "ErrImageNeverPull"
	found, err := a.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: c.spec.Image}})
	if err != nil {
		return err
	}
	if found.Image == nil {
		return fmt.Errorf("the image %s is not on the node, and images are never pulled here", c.spec.Image)
	}
	c.reason = "CreateContainerConfigError"
	config, err := w.config(ctx, pod, c, found.Image)
	if err != nil {
		return err
	}
	attempt := c.attempt
	if c.id != "" {
		attempt++
	}
	config.Metadata.Attempt = attempt
	config.LogPath = fmt.Sprintf("%s/%d.log", c.spec.Name, attempt)
	c.reason = "CreateContainerError"
	if err := os.MkdirAll(filepath.Join(a.logs(pod), c.spec.Name), 0o755); err != nil {
		return err
	}
	created, err := a.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: w.sandbox, Config: config, SandboxConfig: a.sandboxConfig(pod),
	})
	if err != nil {
		return err
	}
	c.reason = "RunContainerError"
	if _, err := a.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		_, _ = a.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: created.ContainerId})
		return err
	}
	if c.id != "" {
		c.last = c.now
		// The agent has the log and status of the previous container, so the runtime need not keep it.
		_, _ = a.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.id})
	}
	c.id, c.attempt, c.image = created.ContainerId, attempt, imageID(found.Image)
	return w.refresh(ctx, c)
}

func (w *worker) config(ctx context.Context, pod *v1.Pod, c *container, image *cri.Image) (*cri.ContainerConfig, error) {
	environment, values, err := w.agent.environment(ctx, pod, &c.spec, w.ips)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(&c.spec, w.places)
	if err != nil {
		return nil, err
	}
	if path := c.spec.TerminationMessagePath; path != "" {
		file := w.terminationFile(c)
		if err := put(filepath.Dir(file), filepath.Base(file), ""); err != nil {
			return nil, err
		}
		mounts = append(mounts, &cri.Mount{ContainerPath: path, HostPath: file})
	}
	var imageUser *int64
	if image.Uid != nil {
		imageUser = &image.Uid.Value
	} else if image.Username == "" {
		imageUser = new(int64)
	}
	security, err := securityContext(pod, &c.spec, imageUser)
	if err != nil {
		return nil, err
	}
	return &cri.ContainerConfig{
		Metadata:   &cri.ContainerMetadata{Name: c.spec.Name},
		Image:      &cri.ImageSpec{Image: image.Id},
		Command:    expand(c.spec.Command, values),
		Args:       expand(c.spec.Args, values),
		WorkingDir: c.spec.WorkingDir,
		Envs:       environment,
		Mounts:     mounts,
		Stdin:      c.spec.Stdin,
		Labels: map[string]string{
			labelPod: pod.Name, labelNamespace: pod.Namespace, labelUID: string(pod.UID), labelContainer: c.spec.Name,
		},
		Linux: &cri.LinuxContainerConfig{SecurityContext: security},
	}, nil
}

func (w *worker) terminationFile(c *container) string {
	return filepath.Join(w.dir, "termination", c.spec.Name)
}

// refresh updates a container's state from the runtime, and reads its termination message before the next one overwrites
// it.
func (w *worker) refresh(ctx context.Context, c *container) error {
	answer, err := w.agent.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		return err
	}
	c.now = answer.Status
	if c.exited() && c.now.Message == "" {
		// A missing file is treated as empty.
		words, _ := os.ReadFile(w.terminationFile(c))
		c.now.Message = string(words[:min(len(words), longestWords)])
	}
	return nil
}

func imageID(image *cri.Image) string {
	if len(image.RepoDigests) > 0 {
		return image.RepoDigests[0]
	}
	return image.Id
}

func isGone(err error) bool {
	return status.Code(err) == codes.NotFound
}

// Command nodeagent is the part of a kubelet that the lab needs: it registers a node, runs the pods that are bound to
// it through a container runtime (CRI), and reports their status. It rejects unsupported features in the pod's status;
// see supported.go.
//
// It does not pull images, enforce resources (requests count only for the scheduler and for the QoS class of the pod's
// cgroup), serve logs and exec over the network, or support volumes other than those in volumes.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// options holds the command line.
type options struct {
	kubeconfig string
	endpoint   string
	node       string
	addresses  []string
	labels     map[string]string
	root       string
	cgroups    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "nodeagent: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", opts.kubeconfig)
	if err != nil {
		return fmt.Errorf("read %s: %w", opts.kubeconfig, err)
	}
	// Fifty pods at once cause a few hundred requests, and the API server is on this machine.
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient("unix://"+opts.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to the runtime at %s: %w", opts.endpoint, err)
	}
	defer connection.Close()
	agent, err := newAgent(opts, config, client, connection)
	if err != nil {
		return err
	}
	return agent.run(ctx)
}

func newAgent(opts options, config *rest.Config, client kubernetes.Interface, connection *grpc.ClientConn) (*agent, error) {
	host, port, err := apiAddress(config)
	if err != nil {
		return nil, err
	}
	return &agent{
		options: opts,
		client:  client,
		runtime: cri.NewRuntimeServiceClient(connection),
		images:  cri.NewImageServiceClient(connection),
		apiHost: host,
		apiPort: port,
		workers: map[string]*worker{},
	}, nil
}

func parse(args []string) (options, error) {
	flags := flag.NewFlagSet("nodeagent", flag.ContinueOnError)
	var opts options
	var addresses, labels string
	flags.StringVar(&opts.kubeconfig, "kubeconfig", "", "kubeconfig file with this node's identity")
	flags.StringVar(&opts.endpoint, "runtime", "", "the runtime's socket (CRI v1)")
	flags.StringVar(&opts.node, "node-name", "", "the node's name")
	flags.StringVar(&addresses, "node-ip", "", "the node's own addresses, separated by commas")
	flags.StringVar(&labels, "node-labels", "", "additional labels of the node: KEY=VALUE, separated by commas")
	flags.StringVar(&opts.root, "root-dir", "", "directory of the pods' volumes and logs")
	flags.StringVar(&opts.cgroups, "cgroup-root", "/sys/fs/cgroup", "where cgroup2 is mounted")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	required := map[string]string{
		"kubeconfig": opts.kubeconfig, "runtime": opts.endpoint, "node-name": opts.node, "node-ip": addresses, "root-dir": opts.root,
	}
	for name, value := range required {
		if value == "" {
			return opts, fmt.Errorf("--%s is required", name)
		}
	}
	opts.addresses = strings.Split(addresses, ",")
	for _, address := range opts.addresses {
		if _, err := netip.ParseAddr(address); err != nil {
			return opts, fmt.Errorf("--node-ip: %w", err)
		}
	}
	opts.labels = map[string]string{}
	for _, label := range strings.FieldsFunc(labels, func(r rune) bool { return r == ',' }) {
		key, value, found := strings.Cut(label, "=")
		if !found {
			return opts, fmt.Errorf("--node-labels: %q is not KEY=VALUE", label)
		}
		opts.labels[key] = value
	}
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	return opts, os.MkdirAll(filepath.Join(opts.root, "pods"), 0o755)
}

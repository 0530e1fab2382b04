// Command runc-lab runs runc on machines whose cgroup2 hierarchy has no controllers, for example because cgroup v1 has
// them all. It removes processor, memory and similar limits from a bundle, which runc would fail to apply, and then
// executes runc. Device rules remain.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "runc-lab: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if bundle := bundleOf(args); bundle != "" {
		if err := relax(filepath.Join(bundle, "config.json")); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc: %w", err)
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// bundleOf is the bundle directory of `create` and `run`, and empty for other commands.
func bundleOf(args []string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--bundle="); ok {
			return value
		}
		if (arg == "--bundle" || arg == "-b") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// relax rewrites a bundle's configuration. Numbers are kept as text, because some do not fit into a float.
func relax(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config, linux, resources map[string]json.RawMessage
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if config["linux"] == nil {
		return nil
	}
	if err := json.Unmarshal(config["linux"], &linux); err != nil {
		return fmt.Errorf("%s: linux: %w", path, err)
	}
	if linux["resources"] == nil {
		return nil
	}
	if err := json.Unmarshal(linux["resources"], &resources); err != nil {
		return fmt.Errorf("%s: linux.resources: %w", path, err)
	}
	for name := range resources {
		if name != "devices" {
			delete(resources, name)
		}
	}
	if linux["resources"], err = json.Marshal(resources); err != nil {
		return err
	}
	if config["linux"], err = json.Marshal(linux); err != nil {
		return err
	}
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

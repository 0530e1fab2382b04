// Command gosdk finds credentials and its identity as any Go program in a pod does, with default settings. It always prints one line
// of JSON, so that tests compare fields.
//
//	gosdk            asks once; exit code 1 if that fails
//	gosdk --serve    asks once for each line of standard input
//
// A line `ask` uses the existing configuration and the credentials that it holds, as a long-running program does. `fresh` drops the
// credentials first and keeps the rest: the metadata client then fetches new ones with the session token that it holds.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// The time limit for everything together. A probe must not outlive its test.
const deadline = 60 * time.Second

type report struct {
	SDK         string `json:"sdk"`
	Region      string `json:"region"`
	STSRegion   string `json:"sts_region"`
	AccessKeyID string `json:"access_key_id"`
	Source      string `json:"source"`
	Expires     string `json:"expires"`
	ARN         string `json:"arn"`
	Error       string `json:"error"`
	RetrieveMS  int64  `json:"retrieve_ms"`
}

func main() {
	switch {
	case len(os.Args) == 1:
		if cfg, err := load(); answer(cfg, err).Error != "" {
			os.Exit(1)
		}
	case len(os.Args) == 2 && os.Args[1] == "--serve":
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(64)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: gosdk [--serve]")
		os.Exit(64)
	}
}

func serve() error {
	cfg, err := load()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "ask":
		case "fresh":
			if cache, ok := cfg.Credentials.(*aws.CredentialsCache); ok {
				cache.Invalidate()
			}
		default:
			return fmt.Errorf("say ask or fresh, not %q", lines.Text())
		}
		answer(cfg, err)
	}
	return lines.Err()
}

// load does what a program does once, at its start.
func load() (aws.Config, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// The only option that is not a default: without it this SDK does not read the region from the metadata service.
	cfg, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSRegion())
	if err != nil {
		return cfg, fmt.Errorf("load configuration: %w", err)
	}
	return cfg, nil
}

// answer prints what cfg finds, or err if cfg could not be loaded.
func answer(cfg aws.Config, err error) report {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	found := report{SDK: "aws-sdk-go-v2/" + aws.SDKVersion, Region: cfg.Region}
	if err == nil {
		err = found.fill(ctx, cfg)
	}
	if err != nil {
		found.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return found
}

// fill asks in the order of a program. After a failure, the report contains what was found before it.
func (r *report) fill(ctx context.Context, cfg aws.Config) error {
	start := time.Now()
	credentials, err := cfg.Credentials.Retrieve(ctx)
	r.RetrieveMS = time.Since(start).Milliseconds()
	if err != nil {
		return fmt.Errorf("retrieve credentials: %w", err)
	}
	r.AccessKeyID = credentials.AccessKeyID
	r.Source = credentials.Source
	if credentials.CanExpire {
		r.Expires = credentials.Expires.UTC().Format(time.RFC3339)
	}

	client := sts.NewFromConfig(cfg)
	r.STSRegion = client.Options().Region
	identity, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return fmt.Errorf("get caller identity: %w", err)
	}
	r.ARN = aws.ToString(identity.Arn)
	return nil
}

// Command gosdk finds credentials and its identity the way any Go program in a pod does: default settings, nothing but what the
// SDK finds by itself. It prints one line of JSON, whatever happens, so that a test compares fields and not prose.
//
//	gosdk            asks once; exit code 1 when that failed
//	gosdk --serve    asks once for each line on standard input, until it ends
//
// A line `ask` uses the configuration that is there, with whatever credentials it holds, as a long-running program does; `fresh`
// drops the credentials first and keeps the rest: the metadata client then asks anew with the session token that it holds.
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

// The bound on everything together: a probe must never outlive its test.
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

// load does what a program does at its start, once.
func load() (aws.Config, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// The one option that is not a default: without it this SDK never asks the metadata service for the region.
	cfg, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSRegion())
	if err != nil {
		return cfg, fmt.Errorf("load configuration: %w", err)
	}
	return cfg, nil
}

// answer prints what cfg finds, unless it could not be loaded.
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

// fill asks in the order a program does and leaves what was found before a failure in the report.
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

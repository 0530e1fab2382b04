// Command asker is the only program of a pod in the tests of start-up. From its first moment it requests credentials
// from the metadata service as SDKs do, and prints every response as a line of JSON. It exits with 0 after it was
// served three times, and with 1 if that takes too long. The reader of its output checks whose credentials they are.
// With --pause it sleeps until it is signaled, like the first process of a sandbox.
package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	base = "http://169.254.169.254/latest/"
	// Overall timeout, pause between attempts, and number of successes after which the program exits.
	patience = 30 * time.Second
	pause    = 20 * time.Millisecond
	repeats  = 3
)

// answer is one line of output. Status 0 means no response; Key is the access key id.
type answer struct {
	Ms     int64  `json:"ms"`
	What   string `json:"what"`
	Status int    `json:"status"`
	Role   string `json:"role,omitempty"`
	Key    string `json:"key,omitempty"`
	Error  string `json:"error,omitempty"`
}

var start = time.Now()

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--pause" {
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
		<-told
		return
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
	}}
	served := 0
	for served < repeats {
		if time.Since(start) > patience {
			os.Exit(1)
		}
		if ask(client) {
			served++
		}
		time.Sleep(pause)
	}
}

// ask goes through an SDK's three steps. It reports whether it got credentials.
func ask(client *http.Client) bool {
	token, ok := step(client, "token", http.MethodPut, "api/token", "", "")
	if !ok {
		return false
	}
	role, ok := step(client, "list", http.MethodGet, "meta-data/iam/security-credentials/", token, "")
	if !ok {
		return false
	}
	role = strings.TrimSpace(role)
	_, ok = step(client, "credentials", http.MethodGet, "meta-data/iam/security-credentials/"+role, token, role)
	return ok
}

func step(client *http.Client, what, method, path, token, role string) (string, bool) {
	said := answer{What: what, Role: role}
	body := ""
	request, err := http.NewRequest(method, base+path, nil)
	if err == nil {
		if method == http.MethodPut {
			request.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		} else {
			request.Header.Set("X-Aws-Ec2-Metadata-Token", token)
		}
		said.Ms = time.Since(start).Milliseconds()
		var response *http.Response
		if response, err = client.Do(request); err == nil {
			var bytes []byte
			bytes, err = io.ReadAll(response.Body)
			response.Body.Close()
			said.Status, body = response.StatusCode, string(bytes)
		}
	}
	if err != nil {
		said.Error = err.Error()
	}
	good := said.Status == http.StatusOK
	if what == "credentials" && good {
		var credentials struct{ AccessKeyId string }
		good = json.Unmarshal([]byte(body), &credentials) == nil && credentials.AccessKeyId != ""
		said.Key = credentials.AccessKeyId
	}
	_ = json.NewEncoder(os.Stdout).Encode(said)
	return body, good
}

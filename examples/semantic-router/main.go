// Checks a server as the semantic router does before it trusts its answers (`http_classify`, contract label_distribution.v1): it posts
// {"inputs": text} to /classify, and expects every configured label exactly once, no other label, and scores that are a distribution.
//
//	go run main.go URL HOST TEXT LABEL...
//
// HOST names the adapter, as the Kubernetes Service of the adapter does: intent.models.svc.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"net/http"
	"os"
	"time"
)

type scored struct {
	Label string   `json:"label"`
	Score *float64 `json:"score"`
}

// classify asks for the distribution of text, and returns it by label once it is checked.
func classify(server, host, text string, configured []string) (map[string]float64, error) {
	body, err := json.Marshal(map[string]string{"inputs": text})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, server+"/classify", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Host = host
	request.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("POLYRANK_API_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, fmt.Errorf("status %s", response.Status)
	}
	var list []scored
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("not a flat list of labels: %w", err)
	}
	return check(list, configured)
}

func check(list []scored, configured []string) (map[string]float64, error) {
	known := make(map[string]bool)
	for _, label := range configured {
		known[label] = true
	}
	distribution, sum := make(map[string]float64), 0.0
	for _, entry := range list {
		if !known[entry.Label] {
			return nil, fmt.Errorf("label %q is not configured", entry.Label)
		}
		if _, twice := distribution[entry.Label]; twice {
			return nil, fmt.Errorf("label %q occurs more than once", entry.Label)
		}
		if entry.Score == nil || math.IsNaN(*entry.Score) || *entry.Score < 0 || *entry.Score > 1 {
			return nil, fmt.Errorf("label %q: the score is not in [0, 1]", entry.Label)
		}
		distribution[entry.Label] = *entry.Score
		sum += *entry.Score
	}
	for label := range known {
		if _, found := distribution[label]; !found {
			return nil, fmt.Errorf("label %q is missing", label)
		}
	}
	if math.Abs(sum-1) > 0.02 {
		return nil, fmt.Errorf("the scores sum to %g", sum)
	}
	return distribution, nil
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("usage: main URL HOST TEXT LABEL...")
	}
	distribution, err := classify(os.Args[1], os.Args[2], os.Args[3], os.Args[4:])
	if err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(distribution)
}

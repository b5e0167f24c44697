// Classifies a text: by one adapter, and by several in one request.
//
//	go run classify.go URL TEXT ADAPTER...        POLYRANK_API_KEY is sent if it is set
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"time"
)

// Label is one label of a text with its score.
type Label struct {
	Label string  `json:"label"`
	Score float64 `json:"score"`
}

// post sends question as JSON and reads the answer into answer.
func post(address string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("POLYRANK_API_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Print("usage: classify URL TEXT ADAPTER...")
		os.Exit(2)
	}
	server, text, adapters := os.Args[1], os.Args[2], os.Args[3:]
	output := json.NewEncoder(os.Stdout)

	// One list of labels for each text.
	var labels [][]Label
	question := map[string]any{"inputs": text, "parameters": map[string]any{"top_k": 1}}
	if err := post(server+"/classify/"+url.PathEscape(adapters[0]), question, &labels); err != nil {
		log.Fatal(err)
	}
	output.Encode(labels)

	// The same for each adapter.
	var byAdapter map[string][][]Label
	if err := post(server+"/classify", map[string]any{"inputs": text, "adapters": adapters}, &byAdapter); err != nil {
		log.Fatal(err)
	}
	output.Encode(byAdapter)
}

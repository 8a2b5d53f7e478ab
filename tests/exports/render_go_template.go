// Renders a template as Ollama does, for test_peers.py: Go's own engine, .System and .Messages with neighbours of one
// role joined. Reads {"template": …, "chats": [[{"role": …, "content": …}]]} and writes a JSON list of prompts.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func main() {
	var asked struct {
		Template string      `json:"template"`
		Chats    [][]message `json:"chats"`
	}
	must(json.NewDecoder(os.Stdin).Decode(&asked))
	parsed, err := template.New("").Option("missingkey=zero").Parse(asked.Template)
	must(err)
	rendered := []string{}
	for _, chat := range asked.Chats {
		var system []string
		var joined []*message
		for i := range chat {
			if chat[i].Role == "system" {
				system = append(system, chat[i].Content)
			}
			if last := len(joined) - 1; last >= 0 && joined[last].Role == chat[i].Role {
				joined[last].Content += "\n\n" + chat[i].Content
			} else {
				joined = append(joined, &chat[i])
			}
		}
		var text strings.Builder
		must(parsed.Execute(&text, map[string]any{"System": strings.Join(system, "\n\n"), "Messages": joined}))
		rendered = append(rendered, text.String())
	}
	must(json.NewEncoder(os.Stdout).Encode(rendered))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

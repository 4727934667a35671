{{/* The arguments of `limelens serve`. */}}
{{- define "limelens.args" -}}
{{- $values := .Values -}}
- serve
{{- if not $values.insecure }}
- --production
{{- end }}
- --listen=0.0.0.0:8500
# Health alone, in plaintext, because the kubelet's probes speak no TLS.
- --health-listen=0.0.0.0:8502
# Metrics in plain HTTP; the network policy says who can reach them.
- --http=0.0.0.0:8501
- --insecure-http
{{- if ne (include "limelens.modelsFrom" .) "packaged" }}
- --models=/srv/models
{{- end }}
- --reload-s={{ $values.models.reloadS }}
{{- range $i, $_ := $values.models.requireSignatures }}
- --require-signature=/keys/{{ $i }}.pem
{{- end }}
{{- if $values.gpu.enabled }}
- --device=cuda{{ if gt (int $values.gpu.count) 1 }}:{{ until (int $values.gpu.count) | join "," }}{{ end }}
{{- end }}
{{- with $values.processes }}
- --processes={{ int64 . }}
{{- end }}
{{- $cpu := dig "limits" "cpu" "" $values.resources | toString }}
{{- if $values.numThreads }}
- --num-threads={{ int64 $values.numThreads }}
{{- else if regexMatch "^[1-9][0-9]*$" $cpu }}
- --num-threads={{ $cpu }}
{{- end }}
{{- $age := ternary 300 0 $values.autoscaling.enabled }}
{{- if not (kindIs "invalid" $values.maxConnectionAgeS) }}
{{- $age = $values.maxConnectionAgeS }}
{{- end }}
{{- with int64 $age }}
- --max-connection-age-s={{ . }}
{{- end }}
- --grace-s={{ int64 $values.graceS }}
- --log-level={{ $values.logLevel }}
{{- if $values.tls.enabled }}
- --tls-cert=/tls/tls.crt
- --tls-key=/tls/tls.key
{{- with $values.tls.clientCa.existingSecret }}
- {{ printf "--tls-client-ca=/client-ca/%s" $values.tls.clientCa.key | quote }}
{{- end }}
{{- else }}
- --insecure
{{- end }}
{{- if $values.tokens.enabled }}
- --tokens=/access/tokens.toml
{{- end }}
{{- with $values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

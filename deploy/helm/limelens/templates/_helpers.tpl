{{- define "limelens.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "limelens.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "limelens.labels" -}}
{{ include "limelens.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "limelens.metadata" -}}
name: {{ include "limelens.fullname" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels: {{- include "limelens.labels" . | nindent 2 }}
{{- end -}}

{{- define "limelens.image" -}}
{{- $tag := default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu.enabled)) .Values.image.tag -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- define "limelens.tlsSecret" -}}
{{- default (printf "%s-tls" (include "limelens.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "limelens.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "limelens.fullname" .)) .Values.tokens.existingSecret -}}
{{- end -}}

{{/* Where the models come from: claim, image, init, or packaged. */}}
{{- define "limelens.modelsFrom" -}}
{{- with .Values.models -}}
{{- if .existingClaim }}claim{{ else if .image.reference }}image{{ else if .init.image }}init{{ else }}packaged{{ end -}}
{{- end -}}
{{- end -}}

{{- define "limelens.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "limelens.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What several values say together; a schema's messages about that would be hard to read. */}}
{{- define "limelens.check" -}}
{{- with .Values -}}
{{- $sources := list -}}
{{- if .models.existingClaim }}{{ $sources = append $sources "models.existingClaim" }}{{ end -}}
{{- if .models.image.reference }}{{ $sources = append $sources "models.image.reference" }}{{ end -}}
{{- if .models.init.image }}{{ $sources = append $sources "models.init.image" }}{{ end -}}
{{- if gt (len $sources) 1 -}}
{{- fail (printf "%s are set; set at most one of them" (join " and " $sources)) -}}
{{- end -}}
{{- if and .models.image.reference (semverCompare "<1.33-0" $.Capabilities.KubeVersion.Version) -}}
{{- fail (printf "models.image needs Kubernetes 1.33 or newer, this is %s; use models.init or models.existingClaim" $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and .models.init.image .models.subPath -}}
{{- fail "models.subPath is for a claim or an image; let models.init write to /srv/models itself" -}}
{{- end -}}
{{- if and (not .tls.enabled) (not .insecure) -}}
{{- fail "tls.enabled is false, so calls and tokens could be read on the way; set tls.enabled=true, or insecure=true if something else protects them" -}}
{{- end -}}
{{- if and (not .tls.enabled) (or .tls.certManager.enabled .tls.clientCa.existingSecret) -}}
{{- fail "tls.certManager and tls.clientCa need tls.enabled=true" -}}
{{- end -}}
{{- if and .tls.certManager.enabled .tls.existingSecret -}}
{{- fail "tls.existingSecret and tls.certManager.enabled are set; set one of them" -}}
{{- end -}}
{{- if and .tls.certManager.enabled (not .tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name, the issuer that signs the certificate" -}}
{{- end -}}
{{- $known := or .tokens.enabled .tls.clientCa.existingSecret (contains "--jwt-key" (join " " .extraArgs)) -}}
{{- if and (not $known) (not .insecure) -}}
{{- fail "tokens.enabled is false, so anybody could call; set tokens.enabled=true, tls.clientCa.existingSecret, or --jwt-key in extraArgs; or insecure=true" -}}
{{- end -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %v, more than autoscaling.maxReplicas, %v" .autoscaling.minReplicas .autoscaling.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}
